"""An asyncio libp2p stack: knows no chunk, organisation or ACL, and could be published alone."""
