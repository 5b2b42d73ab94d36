// @ipld/car on the other side of rage's archives.
//   read    an archive on stdin; prints {version, roots, blocks: [{cid, size, matches}], root: the first root as data}
//   write   JSON [{codec, hash, data: base64}] on stdin; prints an archive whose root is the last block
import { CarBlockIterator, CarWriter } from '@ipld/car'
import * as dagCbor from '@ipld/dag-cbor'
import { blake3 } from '@noble/hashes/blake3.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const hashes = new Map([[0x1e, blake3], [0x12, sha256]])
const address = (codec, hash, data) => CID.createV1(codec, Digest.create(hash, hashes.get(hash)(data)))

async function read () {
  const archive = await CarBlockIterator.fromIterable(process.stdin)
  const roots = await archive.getRoots()
  const blocks = []
  let root = null
  for await (const { cid, bytes } of archive) {
    const matches = address(cid.code, cid.multihash.code, bytes).equals(cid)
    blocks.push({ cid: cid.toString(), size: bytes.length, matches })
    if (cid.equals(roots[0]) && cid.code === dagCbor.code) root = dagCbor.decode(bytes)
  }
  if (root) root.links = root.links.map(([cid, size]) => [cid.toString(), size])
  process.stdout.write(JSON.stringify({ version: archive.version, roots: roots.map(String), blocks, root }))
}

async function write () {
  let text = ''
  for await (const part of process.stdin) text += part
  const blocks = JSON.parse(text).map(({ codec, hash, data }) => {
    const bytes = new Uint8Array(Buffer.from(data, 'base64'))
    return { cid: address(codec, hash, bytes), bytes }
  })
  const { writer, out } = CarWriter.create([blocks.at(-1).cid])
  const sent = (async () => { for await (const part of out) process.stdout.write(part) })()
  for (const block of blocks) await writer.put(block)
  await writer.close()
  await sent
}

await { read, write }[process.argv.at(-1)]()
