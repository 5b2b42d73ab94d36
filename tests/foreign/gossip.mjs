// js-libp2p's gossipsub as the other side of rage's tests. Commands as in peer.mjs; see foreign_peers.py.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

// The specification's message id; the default here leaves the multihash's two bytes out.
const msgIdFn = (message) => {
  const seqno = Buffer.alloc(8)
  seqno.writeBigUInt64BE(message.sequenceNumber)
  return Buffer.concat([message.from.toMultihash().bytes, seqno])
}

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), pubsub: gossipsub({ msgIdFn }) }
})
const pubsub = node.services.pubsub
const got = new Map() // author -> { texts, copies }

pubsub.addEventListener('message', ({ detail }) => {
  const author = detail.from.toString()
  if (!got.has(author)) got.set(author, { texts: new Set(), copies: 0 })
  const entry = got.get(author)
  entry.copies++
  entry.texts.add(new TextDecoder().decode(detail.data))
})

const until = async (look) => {
  while (!look()) await new Promise((resolve) => setTimeout(resolve, 5))
}

const commands = {
  async dial ({ address }) {
    return { peer_id: (await node.dial(multiaddr(address))).remotePeer.toString() }
  },
  async join ({ topic }) {
    pubsub.subscribe(topic)
    return {}
  },
  async meshed ({ topic, count }) { // waits until as many peers are in the mesh
    await until(() => pubsub.getMeshPeers(topic).length >= count)
    return { peers: pubsub.getSubscribers(topic).map(String) }
  },
  async publish ({ topic, word, first, count }) {
    for (let n = first; n < first + count; n++) await pubsub.publish(topic, new TextEncoder().encode(`${word} ${n}`))
    return {}
  },
  async received ({ author, count }) { // waits until as many different messages of the author are here
    await until(() => (got.get(author)?.texts.size ?? 0) >= count)
    return { texts: [...got.get(author).texts], copies: got.get(author).copies }
  },
  async protocols ({ peer }) {
    return { streams: node.getConnections().filter((c) => c.remotePeer.toString() === peer).flatMap((c) => c.streams.map((s) => s.protocol)) }
  }
}
