// js-libp2p sends bytes to itself: `serve` prints its address; `measure ADDRESS` gives MB/s for each line "BYTES".
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const SOURCE = '/bench/source/1.0.0'
const block = new Uint8Array(65536).fill(120)

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()]
})
const [mode, address] = process.argv.slice(-2)[0] === 'measure' ? process.argv.slice(-2) : ['serve']

if (mode === 'serve') {
  await node.handle(SOURCE, async (stream) => {
    let head = Buffer.alloc(0)
    for await (const chunk of stream) {
      head = Buffer.concat([head, chunk.subarray()])
      if (head.length >= 8) break
    }
    for (let left = Number(head.readBigUInt64BE(0)); left > 0; left -= block.length) {
      if (!stream.send(block.subarray(0, Math.min(left, block.length)))) await stream.onDrain()
    }
    await stream.close()
  })
  console.log(node.getMultiaddrs()[0].toString())
  process.stdin.on('end', () => process.exit(0)).resume()
} else {
  const connection = await node.dial(multiaddr(address))
  for await (const line of createInterface({ input: process.stdin })) {
    const size = Number(line)
    const begin = performance.now()
    const stream = await connection.newStream(SOURCE)
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(size))
    stream.send(head)
    let got = 0
    for await (const chunk of stream) {
      got += chunk.byteLength
      if (got >= size) break
    }
    console.log(size / 1e3 / (performance.now() - begin))
    await stream.close()
  }
  process.exit(0)
}
