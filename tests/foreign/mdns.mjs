// js-libp2p's mDNS as the other side of rage's. Commands as in peer.mjs; its first answer comes once it listens.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { mdns } from '@libp2p/mdns'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

const found = new Map() // addresses by peer id, as mDNS said them
function discovery (components) {
  const module = mdns({ interval: 60_000 })(components) // what is found sooner was answered or announced
  module.addEventListener('peer', ({ detail }) => found.set(detail.id.toString(), detail.multiaddrs.map(String)))
  return module
}

const node = await createLibp2p({
  addresses: { listen: ['/ip4/0.0.0.0/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  peerDiscovery: [discovery],
  services: { identify: identify(), ping: ping() }
})

const commands = {
  async found ({ peer }) { // waits until mDNS has brought it
    while (!found.has(peer)) await new Promise((resolve) => setTimeout(resolve, 5))
    return { addresses: found.get(peer) }
  },
  async all_found () {
    return { peers: [...found.keys()] }
  },
  async ping ({ peer }) {
    const { peerIdFromString } = await import('@libp2p/peer-id')
    return { rtt_ms: await node.services.ping.ping(peerIdFromString(peer)) }
  }
}
