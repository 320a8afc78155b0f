"""An object store in memory under s3://, for tests: no folders, no renames, copies only."""

from fsspec.implementations.memory import MemoryFileSystem


class ObjectStore(MemoryFileSystem):
    """What fsspec opens for s3:// after `install`; counts what is read."""

    protocol = "s3"
    store: dict = {}
    pseudo_dirs: list = [""]
    cachable = False
    opened: list = []

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("s3://").strip("/")

    def open(self, path, mode="rb", **options):
        if "r" in mode:
            self.opened.append(str(path))
        return super().open(path, mode, **options)


def install(monkeypatch):
    """Makes s3:// the store, empty, for everything that opens paths with etils; returns it."""
    from etils.epath import backend, gpath
    from fsspec.implementations.local import LocalFileSystem

    store = ObjectStore()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    store.opened.clear()
    # As EPATH_USE_TF=false does, which is read once a process.
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(
        type(backend.fsspec_backend),
        "_get_filesystem",
        lambda self, name: LocalFileSystem() if name == "file" else store,
    )
    return store
