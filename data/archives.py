"""Archives of data sets, tar or zip: looked at as a whole before anything of them is written."""

import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath, PureWindowsPath

from guard.data import find
from guard.errors import UserError

# What reading a damaged archive can end in.
UNPACKING = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def reason_of(problem):
    """An error's text in one line, without what it says to do."""
    return " ".join(str(problem).partition(";")[0].split()) or type(problem).__name__


def plan(name, paths, files):
    """[(path, archive, [(member, kind, where in the data set's folder)])], the archives kept open by the
    ExitStack `files`.

    All members are looked at, and archives that have checksums are read to their end, before anything is
    written. Raises UserError.
    """
    plans, taken = [], {}
    for path in paths:
        archive, chosen, tops = files.enter_context(_open(path)), [], set()
        for label, kind, member in _shown(_members(path, archive), f"checking {path.name}"):
            windows = PureWindowsPath(label)  # takes both kinds of slash, and drives
            outside = windows.anchor or ".." in windows.parts or "\0" in label
            if outside or kind not in ("file", "folder"):
                what = "which would land outside its folder" if outside else f"a {kind}"
                raise UserError(
                    f"{path} holds {label!r}, {what}; nothing was unpacked: give an archive of plain files"
                    " and folders"
                )
            top, where = _place(name, label)
            if where and kind == "file" and where in taken:
                raise UserError(
                    f"{path} holds {where!r}, which {taken[where]} has held already; give archives that hold"
                    " each file once"
                )
            if where:
                taken[where] = path
                tops.add(top)
                chosen.append((member, kind, where))
        if not chosen:
            raise UserError(
                f"{path} holds nothing of {name}; it has to have train/CLASS/*.jpg, val/CLASS/*.jpg or the"
                " published layout"
            )
        if len(tops) > 1:
            raise UserError(
                f"{path} holds more than one data set ({', '.join(sorted(tops))}); give an archive of one"
            )
        plans.append((path, archive, chosen))
    _check_parents(plans)
    return plans


def _check_parents(plans):
    """Raises UserError where a file would have to be a folder, or the folder of another member."""
    held = {where for _, _, chosen in plans for _, kind, where in chosen if kind == "file"}
    for path, _, chosen in plans:
        for _, kind, where in chosen:
            folders = [*PurePosixPath(where).parents, *([where] if kind == "folder" else [])]
            if inside := next((each for each in folders if str(each) in held), None):
                raise UserError(
                    f"{path} holds {where!r}, but {str(inside)!r} is a file; nothing was unpacked: give an"
                    " archive of plain files and folders"
                )


def _place(name, member):
    """(folder around the data set or '.', path in the data set) of a member; the path is '' for what is
    no part of the data set.
    """
    parts = [part for part in member.split("/") if part not in ("", ".")]
    roots = {"train", "val", "test", find.CIFAR_FOLDERS.get(name)}
    depth = next((depth for depth, part in enumerate(parts[:2]) if part in roots), None)
    if depth is None or any(
        part.startswith(".") or part == "__MACOSX" for part in parts
    ):  # macOS adds a ._0.jpg for each 0.jpg
        return ".", ""
    return (parts[0] if depth else "."), "/".join(parts[depth:])


def _shown(files, title):
    """The files one after the other, counted by a bar on a terminal."""
    from tqdm import tqdm  # flags are checked without it

    return tqdm(files, title, unit=" files", disable=None)


def extract(plans, folder):
    folder.mkdir()
    for path, archive, chosen in plans:
        for member, kind, where in _shown(chosen, f"unpacking {path.name}"):
            target = folder / where
            if kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            with _reading(path):
                if isinstance(archive, zipfile.ZipFile):
                    contents = archive.read(member)
                else:  # closed here: what a signal raises while it is closed as garbage is lost
                    with archive.extractfile(member) as source:
                        contents = source.read()
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                file.write(contents)


def _open(path):
    if not path.is_file():
        raise UserError(f"no archive at {path}; name a .tar, .tar.gz, .tgz, .tar.xz or .zip file")
    with _reading(path):
        try:
            return tarfile.open(path)
        except tarfile.ReadError:
            return zipfile.ZipFile(path)


def _members(path, archive):
    """(name, kind, member) of all of an open archive: 'file', 'folder', 'link' or 'device'. Raises
    UserError when it is damaged.
    """
    with _reading(path):
        if isinstance(archive, zipfile.ZipFile):
            kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
            for member in archive.infolist():
                archive.read(
                    member
                )  # for its checksum, and that its name is the same in the archive's list and at its place
                kind = kinds.get(stat.S_IFMT(member.external_attr >> 16), "device")
                yield member.filename, "folder" if member.is_dir() and kind == "file" else kind, member
            return
        for member in archive:
            link = member.islnk() or member.issym()
            yield (
                member.name,
                ("file" if member.isfile() else "folder" if member.isdir() else "link" if link else "device"),
                member,
            )
        # tarfile takes a header that is missing or damaged for the end; the real end is a block of
        # zeros, then the checksum of gz or xz.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
        while archive.fileobj.read(1 << 20):
            pass


@contextlib.contextmanager
def _reading(path):
    try:
        yield
    except UNPACKING as problem:
        raise UserError(
            f"cannot read {path}: it is damaged, cut short, or no tar or zip archive ({reason_of(problem)});"
            " get it again"
        ) from None
