"""Documents: names move, tags choose, retention ends, and naming a CID grants nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rage_net.chunk.documents import DOC_ID, Document, Documents
from rage_net.chunk.holds import count_holds
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import ConflictError, NotFoundError, UsageError

Put = Callable[..., Document]


def test_a_document_is_found_by_id_root_and_name(documents: Documents, put_document: Put) -> None:
    document = put_document(b"root", b"more", name="report.md", tags=("b", "a", "b"), owner="12D3", policy="p")
    assert DOC_ID.fullmatch(document.doc_id)
    assert document.tags == ("a", "b")
    assert document.visibility == "org"
    for ref in (document.doc_id, str(Cid.of(b"root")), "report.md"):
        assert documents.resolve(ref) == [document]
    for ref in ("", "nothing", "a" * 26, str(Cid.of(b"other"))):
        with pytest.raises(NotFoundError):
            documents.resolve(ref)


def test_several_documents_may_share_a_root(store: ChunkStore, documents: Documents, put_document: Put) -> None:
    one, two = put_document(b"root", name="one"), put_document(b"root", name="two")
    assert {document.doc_id for document in documents.resolve(str(Cid.of(b"root")))} == {one.doc_id, two.doc_id}
    documents.remove(one)
    assert count_holds(store, Cid.of(b"root")) == 1
    assert documents.resolve(str(Cid.of(b"root"))) == [two]


def test_putting_a_name_again_moves_the_document_which_keeps_its_id(
    store: ChunkStore, world: object, documents: Documents, put_document: Put
) -> None:
    first = put_document(b"first", b"shared", name="report", tags=("old",))
    world.time += 10  # type: ignore[attr-defined]
    second = put_document(b"second", b"shared", name="report", tags=("new",))
    assert (second.doc_id, second.created_at) == (first.doc_id, first.created_at)
    assert second.root == Cid.of(b"second")
    assert second.tags == ("new",)
    assert documents.count() == 1
    assert [count_holds(store, Cid.of(block)) for block in (b"first", b"shared", b"second")] == [0, 1, 1]


def test_putting_the_same_again_changes_nothing(store: ChunkStore, documents: Documents, put_document: Put) -> None:
    first = put_document(b"root", b"leaf", name="report")
    second = put_document(b"root", b"leaf", name="report")
    assert second.doc_id == first.doc_id
    assert count_holds(store, Cid.of(b"leaf")) == 1


def test_a_name_belongs_to_its_organisation(documents: Documents, put_document: Put) -> None:
    ours, theirs = (
        put_document(b"ours", name="n", organisation="a"),
        put_document(b"theirs", name="n", organisation="b"),
    )
    assert ours.doc_id != theirs.doc_id
    assert {document.organisation for document in documents.resolve("n")} == {"a", "b"}


def test_nameless_documents_never_move_each_other(documents: Documents, put_document: Put) -> None:
    assert put_document(b"one").doc_id != put_document(b"one").doc_id
    assert documents.count() == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a\nb"},
        {"name": "x" * 2000},
        {"name": "\udcff"},
        {"tags": [""]},
        {"tags": ["a\0"]},
        {"tags": ["t"] * 65},
    ],
)
def test_bad_names_and_tags_are_refused_and_leave_nothing(
    store: ChunkStore, documents: Documents, put_document: Put, bad: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        put_document(b"root", **bad)
    assert documents.count() == 0
    assert count_holds(store, Cid.of(b"root")) == 0


def test_list_pages_by_name_and_chooses_by_tag_and_prefix(documents: Documents, put_document: Put) -> None:
    for n in range(25):
        put_document(bytes([n]), name=f"{'ab'[n % 2]}/{n:02}" if n < 20 else "", tags=["even" if n % 2 == 0 else "odd"])
    names: list[str] = []
    cursor, pages = "", 0
    while True:
        page, cursor = documents.list(after=cursor, limit=4)
        names += [document.name for document in page]
        pages += 1
        if not cursor:
            break
    assert names == sorted(names)
    assert (len(names), pages) == (25, 7)
    assert len(documents.list(tag="even")[0]) == 13
    assert [document.name for document in documents.list(prefix="b/", tag="odd", limit=2)[0]] == ["b/01", "b/03"]


def test_an_expired_document_is_not_seen_and_its_name_is_free(
    world: object, documents: Documents, put_document: Put
) -> None:
    document = put_document(b"root", name="n", expires_at=1_000_100.0)
    assert documents.resolve("n") == [document]
    world.time = 1_000_100.0  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        documents.resolve("n")
    assert documents.list() == ([], "")
    assert documents.counting(Cid.of(b"root")) == []
    assert documents.expired() == [document]
    again = put_document(b"root", name="n")
    assert again.doc_id != document.doc_id
    assert documents.count() == 1


def test_a_document_counts_only_for_chunks_whose_bytes_its_author_sent(
    store: ChunkStore, documents: Documents, put_document: Put
) -> None:
    secret = Cid.of(b"secret")
    theirs = put_document(b"secret", organisation="them")
    with documents.lease("us") as lease:
        with store.batch(lease=lease) as batch:
            batch.add_data(b"root")
            batch.commit()
        lease.hold([secret, Cid.of(b"never here")])
        ours = documents.put(lease, Cid.of(b"root"), size=4, chunks=2)
    assert documents.counting(Cid.of(b"root")) == [(ours, "us")]
    assert documents.counting(secret) == [(theirs, "them")]
    assert documents.counting(Cid.of(b"never here")) == []
    assert count_holds(store, secret) == 2


def test_a_document_counts_for_chunks_it_was_granted_or_sent_again(
    store: ChunkStore, documents: Documents, put_document: Put
) -> None:
    put_document(b"known", organisation="them")
    with documents.lease("us") as lease:
        lease.hold([Cid.of(b"known"), Cid.of(b"granted")])
        lease.hold([Cid.of(b"granted")], counts=True)
        with store.batch(lease=lease) as batch:
            batch.add_data(b"known")  # here already, yet these bytes were sent by us too
            assert batch.commit() == 0
        ours = documents.put(lease, Cid.of(b"known"), size=5, chunks=1)
    assert (ours, "us") in documents.counting(Cid.of(b"known"))
    assert documents.counting(Cid.of(b"granted")) == [(ours, "us")]


def test_holding_a_cached_chunk_makes_it_durable(store: ChunkStore, documents: Documents) -> None:
    store.put(Cid.of(b"fetched"), b"fetched", cache=True)
    with documents.lease() as lease:
        lease.hold([Cid.of(b"fetched")])
        assert not store.stat(Cid.of(b"fetched")).cached


def test_remove_lets_go_and_says_what_that_would_free(
    store: ChunkStore, documents: Documents, put_document: Put
) -> None:
    document = put_document(b"root" * 10_000, b"shared", name="n")
    put_document(b"other", b"shared")
    assert documents.measure_release(document) == (1, store.stat(Cid.of(b"root" * 10_000)).stored)
    assert documents.remove(document) is True
    assert documents.remove(document) is False
    assert [count_holds(store, Cid.of(block)) for block in (b"root" * 10_000, b"shared")] == [0, 1]


def test_a_pin_holds_until_it_is_let_go(store: ChunkStore, documents: Documents) -> None:
    store.put(Cid.of(b"root"), b"root")
    for changed in (True, False):
        with documents.lease() as lease:
            lease.hold([Cid.of(b"root")])
            assert documents.pin(lease, Cid.of(b"root")) is changed
    assert documents.is_pinned(Cid.of(b"root"))
    assert count_holds(store, Cid.of(b"root")) == 1
    with pytest.raises(ConflictError):
        store.delete(Cid.of(b"root"))
    assert documents.unpin(Cid.of(b"root")) is True
    assert documents.unpin(Cid.of(b"root")) is False
    assert not documents.is_pinned(Cid.of(b"root"))
    assert store.delete(Cid.of(b"root"))


def test_a_lease_that_is_not_used_lets_go_and_one_that_is_serves_once(store: ChunkStore, documents: Documents) -> None:
    with pytest.raises(ZeroDivisionError), documents.lease() as lease:
        lease.hold([Cid.of(bytes([n])) for n in range(200)] * 3)
        raise ZeroDivisionError
    assert count_holds(store, Cid.of(b"\1")) == 0
    with documents.lease() as lease:
        documents.put(lease, Cid.of(b"root"), size=4, chunks=1)
        with pytest.raises(ConflictError):
            documents.put(lease, Cid.of(b"root"), size=4, chunks=1)
