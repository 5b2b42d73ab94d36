// js-libp2p's mDNS as the other side of rage's. Commands as in peer.mjs; its first answer comes once it listens.
import { createInterface } from 'node:readline'
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
  async about () {
    return { peer_id: node.peerId.toString(), address: node.getMultiaddrs()[0].toString() }
  },
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

function answer (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { id, op, ...args } = JSON.parse(line)
  try {
    answer({ id, ok: await commands[op](args) })
  } catch (error) {
    answer({ id, error: `${error.name}: ${error.message}` })
  }
}).on('close', () => process.exit(0))
answer({ id: 0, ok: await commands.about() })
