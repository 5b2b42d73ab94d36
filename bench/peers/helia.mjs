// Helia as the other side of rage's benchmark: `serve FILE` adds a file and prints its address and CID, then serves it
// until stdin ends; `get ADDRESS CID FILE` fetches it from there. TCP, Noise, yamux and bitswap on loopback; blocks in memory.
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

const [what, ...rest] = process.argv.slice(1) // this module comes as text: no file name
const helia = withBitswap(withLibp2pLight(createHeliaLight(), {
  addresses: { listen: what === 'serve' ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
}))
await helia.start()
const files = unixfs(helia)

if (what === 'serve') {
  const cid = await files.addByteStream(createReadStream(rest[0]))
  console.log(`${helia.libp2p.getMultiaddrs()[0]} ${cid}`)
  process.stdin.on('end', () => process.exit(0)).resume()
} else {
  const [address, cid, path] = rest
  await helia.libp2p.dial(multiaddr(address))
  const file = await open(path, 'w')
  for await (const bytes of files.cat(CID.parse(cid))) await file.write(bytes)
  await file.close()
  process.exit(0)
}
