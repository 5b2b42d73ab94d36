// The end of every js-libp2p peer's text: `node` and `commands`, defined before it, are led by JSON lines. See foreign_peers.py.
import { createInterface } from 'node:readline'

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
answer({ id: 0, ok: { peer_id: node.peerId.toString(), address: node.getMultiaddrs()[0].toString() } })
