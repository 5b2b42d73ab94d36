// js-libp2p's kad-dht as the other side of rage's: a server of /rage/kad/1.0.0, led by JSON lines; see foreign_peers.py.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { publicKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const TIMEOUT_MS = 20_000

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: '/rage/kad/1.0.0',
      clientMode: false,
      peerInfoMapper: passthroughMapper, // loopback addresses are what a test has
      allowQueryWithZeroPeers: true
    })
  }
})

const dht = node.services.dht
const signal = () => ({ signal: AbortSignal.timeout(TIMEOUT_MS) })
const cid = (multihash) => CID.createV1(0x55, Digest.decode(Buffer.from(multihash, 'hex')))
const show = (peer) => ({ peer_id: peer.id.toString(), addresses: peer.multiaddrs.map(String) })

const commands = {
  async dial ({ address }) {
    return { peer_id: (await node.dial(multiaddr(address))).remotePeer.toString() }
  },
  async tabled ({ peer }) { // waits until a peer stands in the routing table
    const deadline = Date.now() + TIMEOUT_MS
    while (await dht.routingTable.find(peerIdFromString(peer)) == null) {
      if (Date.now() > deadline) throw new Error(`${peer} does not enter the table`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    return {}
  },
  async provide ({ multihash }) {
    let sent = 0
    for await (const event of dht.provide(cid(multihash), signal())) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'ADD_PROVIDER') sent++
    }
    return { sent }
  },
  async find_providers ({ multihash }) {
    const found = []
    for await (const event of dht.findProviders(cid(multihash), signal())) {
      if (event.name === 'PROVIDER') found.push(...event.providers.map(show))
    }
    return { found }
  },
  async held ({ multihash }) { // who has left a record here
    return { peers: (await dht.providers.getProviders(cid(multihash))).map(String) }
  },
  async find_peer ({ peer }) {
    for await (const event of dht.findPeer(peerIdFromString(peer), { ...signal(), useCache: false })) {
      if (event.name === 'FINAL_PEER') return show(event.peer)
    }
    throw new Error('not found')
  },
  async put_key () { // our own public key, under /pk/
    const key = Buffer.concat([Buffer.from('/pk/'), node.peerId.toMultihash().bytes])
    let stored = 0
    for await (const event of dht.put(key, publicKeyToProtobuf(node.peerId.publicKey), signal())) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') stored++
    }
    return { stored }
  },
  async get_key ({ peer }) {
    const key = Buffer.concat([Buffer.from('/pk/'), peerIdFromString(peer).toMultihash().bytes])
    for await (const event of dht.get(key, signal())) {
      if (event.name === 'VALUE') return { value: Buffer.from(event.value).toString('hex') }
    }
    throw new Error('not found')
  }
}
