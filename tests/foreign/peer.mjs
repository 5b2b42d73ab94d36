// js-libp2p as the other side of rage's tests. Commands come as JSON lines on stdin, answers leave on stdout; see foreign_peers.py.
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/foreign/echo/1.0.0'
const SINK = '/foreign/sink/1.0.0'
const SOURCE = '/foreign/source/1.0.0'
const RESET = '/foreign/reset/1.0.0'
const BLOCK = 65536
const many = { maxInboundStreams: 1024, maxOutboundStreams: 1024, runOnLimitedConnection: false }

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})

async function send (stream, bytes) {
  if (!stream.send(bytes)) await stream.onDrain()
}

// Block k of the common test pattern: its number, then bytes that are the same in each. Gives the hash of what was sent.
async function sendPattern (stream, size) {
  const hash = createHash('sha256')
  for (let k = 0, left = size; left > 0; k++) {
    const block = Buffer.allocUnsafe(BLOCK)
    for (let i = 0; i < 256; i++) block[i] = (i * 7 + 3) & 255
    for (let n = 256; n < BLOCK; n *= 2) block.copyWithin(n, 0, n)
    block.writeBigUInt64BE(BigInt(k), 0)
    const part = block.subarray(0, Math.min(left, BLOCK))
    hash.update(part)
    await send(stream, part)
    left -= part.length
  }
  return hash.digest('hex')
}

async function hashAll (stream) {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of stream) {
    bytes += chunk.byteLength
    hash.update(chunk.subarray())
  }
  return { bytes, sha256: hash.digest('hex') }
}

async function readAll (stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk.subarray())
  return Buffer.concat(chunks)
}

await node.handle(ECHO, async (stream) => {
  for await (const chunk of stream) await send(stream, chunk.subarray())
  await stream.close()
}, many)

await node.handle(SINK, async (stream) => { // answers only after the asker's half is closed
  const got = await hashAll(stream)
  await send(stream, Buffer.from(JSON.stringify(got)))
  await stream.close()
}, many)

await node.handle(SOURCE, async (stream) => {
  let head = Buffer.alloc(0)
  for await (const chunk of stream) {
    head = Buffer.concat([head, chunk.subarray()])
    if (head.length >= 8) break
  }
  await sendPattern(stream, Number(head.readBigUInt64BE(0)))
  await stream.close()
}, many)

await node.handle(RESET, async (stream) => {
  for await (const _ of stream) break
  stream.abort(new Error('as asked'))
}, many)

const connection = (peer) => node.getConnections().find((c) => c.remotePeer.toString() === peer)
const open = (peer, protocol) => connection(peer).newStream(protocol, many)

const commands = {
  async dial ({ address }) {
    return { peer_id: (await node.dial(multiaddr(address))).remotePeer.toString() }
  },
  async met ({ peer }) { // waits for a connection that the other side has dialled
    while (connection(peer) == null) await new Promise((resolve) => setTimeout(resolve, 5))
    return {}
  },
  async identify ({ peer }) {
    const told = await node.services.identify.identify(connection(peer))
    return {
      peer_id: told.peerId.toString(),
      agent: told.agentVersion,
      protocols: told.protocols,
      addresses: told.listenAddrs.map(String),
      observed: told.observedAddr?.toString()
    }
  },
  async ping ({ peer }) {
    return { rtt_ms: await node.services.ping.ping(connection(peer).remotePeer) }
  },
  async put ({ peer, size }) {
    const stream = await open(peer, SINK)
    const sha256 = await sendPattern(stream, size)
    await stream.close()
    return { sha256, answer: JSON.parse((await readAll(stream)).toString()) }
  },
  async get ({ peer, size }) {
    const stream = await open(peer, SOURCE)
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(size))
    await send(stream, head)
    await stream.close()
    return await hashAll(stream)
  },
  async streams ({ peer, count, size }) {
    const one = async (n) => {
      const stream = await open(peer, ECHO)
      const sent = Buffer.alloc(size, n & 255)
      await send(stream, sent)
      await stream.close()
      return Buffer.compare(await readAll(stream), sent) === 0
    }
    const good = await Promise.all(Array.from({ length: count }, (_, n) => one(n)))
    return { good: good.filter(Boolean).length }
  },
  async reset ({ peer }) { // we reset: the other side sees it
    const stream = await open(peer, ECHO)
    await send(stream, Buffer.from('x'))
    for await (const _ of stream) break
    stream.abort(new Error('as asked'))
    return {}
  },
  async get_reset ({ peer }) { // the other side resets: we see it
    const stream = await open(peer, RESET)
    await send(stream, Buffer.from('x'))
    try {
      await readAll(stream)
    } catch (error) {
      return { is_reset: error.name === 'StreamResetError' }
    }
    return { is_reset: false }
  },
  async open ({ peer, protocol }) {
    const stream = await open(peer, protocol)
    await readAll(stream)
    return {}
  },
  async hang_up ({ peer }) {
    await connection(peer).close()
    return {}
  }
}
