"""CDNs: what is purged where and how, what caches are told, and what their answers mean.

    provider    the words: items, abilities, verdicts, and the Protocol that every CDN's module has
    retry       when a call is made again
    plan        which calls purge what was asked, the fewest that do
    journal     what was asked and what became of it, in SQLite
    policy      the headers with which the origin answers
    evidence    what an edge's headers say of its cache
    cloud edges    what the clients of clouds, and those of self-hosted caches, have in common
    answers     one exchange with an API, what statuses mean with any vendor, a vendor's words made fit to show
    cloudflare fastly cloudfront azure varnish nginx    a module for each CDN: pure requests and verdicts, a thin client
    buckets     the stores that publish fills: S3 and its kin, Azure Blob, nginx's DAV
    render      configurations of edges

Not here: who decides that something is purged (services.purging), what is public (gate).
"""
