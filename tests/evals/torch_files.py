"""Files of the layouts that torch writes, made by hand: the opcodes of their pickles."""

import struct
import zipfile

import numpy as np


def _text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _numbers(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def _tensor(array, key, is_old=False):
    """`_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`."""
    kind = {"float32": b"FloatStorage", "float16": b"HalfStorage", "int64": b"LongStorage"}
    strides = [stride // array.itemsize for stride in array.strides]
    storage = _text("storage") + b"ctorch\n" + kind[array.dtype.name] + b"\n" + _text(key)
    storage += _text("cpu") + b"J" + struct.pack("<i", array.size) + (b"N" if is_old else b"")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (b"(" + storage + b"tQ" + b"K\x00" + _numbers(array.shape) + _numbers(strides))
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def _object(value, arrays, is_module, is_old=False):
    if isinstance(value, np.ndarray):
        if not value.flags.forc:
            value = np.ascontiguousarray(value)
        arrays.append(value)
        return _tensor(value, str(len(arrays) - 1), is_old)
    if not isinstance(value, dict):
        return value if isinstance(value, bytes) else b"N"
    items = [_text(key) + _object(each, arrays, is_module, is_old) for key, each in value.items()]
    table = b"}(" + b"".join(items) + b"u"
    return b"c__torch__.src.i3dpt_jit\nI3D\n)\x81" + table + b"b" if is_module else table


def write_zip(path, tree, *, is_script=False, code=None):
    """`torch.save` of nested dictionaries of arrays, or TorchScript's file of such modules.

    Bytes in the tree go into the pickle as they are; code is the text of a batch norm's class.
    """
    arrays = []
    pickled = b"\x80\x02" + _object(tree, arrays, is_script) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for index, array in enumerate(arrays):
            archive.writestr(f"net/data/{index}", array.tobytes("A"))
        archive.writestr("net/byteorder", "little")
        if code:
            archive.writestr("net/code/__torch__/torch/nn/modules/batchnorm.py", code)


def write_old(path, tree):
    """What torch before 1.6 wrote: five pickles, then the numbers, each behind its count."""
    arrays = []
    found = b"\x80\x02" + _object(tree, arrays, False, is_old=True) + b"."
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    keys = b"\x80\x02](" + b"".join(_text(str(index)) for index in range(len(arrays))) + b"e."
    parts = [magic, b"\x80\x02M\xe9\x03.", b"\x80\x02}.", found, keys]
    parts += [struct.pack("<q", array.size) + array.tobytes("A") for array in arrays]
    path.write_bytes(b"".join(parts))
