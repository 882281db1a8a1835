// The extension module `seseg_trt.native._native`: checks arguments, acquires buffers, releases the GIL and calls deflate.h and pixels.h.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <new>

#include "deflate.h"
#include "pixels.h"

namespace {

constexpr int MAX_SIDE = 0x7fffffff;

// Whether this thread has released the GIL. If the interpreter exits meanwhile, Python 3.10 to 3.13 end a daemon thread that reacquires the
// GIL by unwinding its stack. Destructors then run without the GIL and must not touch Python objects.
thread_local bool without_lock = false;

// A buffer of a Python object, released at the end of its scope.
struct Buffer {
    Py_buffer view{};
    bool held = false;

    bool take(PyObject* object, bool writable) {
        held = PyObject_GetBuffer(object, &view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) == 0;
        if (held && view.itemsize != 1) {
            PyErr_SetString(PyExc_ValueError, "bytes are wanted: uint8");
            return false;
        }
        return held;
    }
    bool has_shape(int dimensions, std::initializer_list<Py_ssize_t> shape) const {
        if (view.ndim != dimensions) return false;
        int axis = 0;
        for (const Py_ssize_t side : shape)
            if (view.shape[axis++] != side) return false;
        return true;
    }
    std::uint8_t* bytes() const { return static_cast<std::uint8_t*>(view.buf); }
    ~Buffer() {
        if (held && !without_lock) PyBuffer_Release(&view);
    }
};

// Run `work` without the GIL; return false, with MemoryError set, if memory ran out.
template <typename Work>
bool unlocked(Work work) {
    bool done = true;
    without_lock = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        work();
    } catch (const std::bad_alloc&) {
        done = false;
    }
    Py_END_ALLOW_THREADS
    without_lock = false;
    if (!done) PyErr_NoMemory();
    return done;
}

PyObject* fail(const char* message) {
    PyErr_SetString(PyExc_ValueError, message);
    return nullptr;
}

PyObject* compress_rows(PyObject*, PyObject* argument) {
    Buffer rows;
    if (!rows.take(argument, false)) return nullptr;
    if (rows.view.ndim != 2 || rows.view.shape[0] < 1 || rows.view.shape[1] < 1) return fail("rows are wanted: [H, L], neither of them 0");
    const std::size_t height = static_cast<std::size_t>(rows.view.shape[0]), length = static_cast<std::size_t>(rows.view.shape[1]);
    PyObject* result = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(seseg::compressed_bound(height, length)));
    if (!result) return nullptr;
    std::uint8_t* out = reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(result));
    std::size_t size = 0;
    if (!unlocked([&] { size = seseg::compress_rows(rows.bytes(), height, length, length, out); })) {
        Py_DECREF(result);
        return nullptr;
    }
    _PyBytes_Resize(&result, static_cast<Py_ssize_t>(size));
    return result;
}

PyObject* resize_map(PyObject*, PyObject* arguments) {
    PyObject *map_object, *out_object;
    if (!PyArg_ParseTuple(arguments, "OO", &map_object, &out_object)) return nullptr;
    Buffer map, out;
    if (!map.take(map_object, false) || !out.take(out_object, true)) return nullptr;
    if (map.view.ndim != 2 || map.view.shape[0] != map.view.shape[1] || map.view.shape[0] < 1) return fail("the map is not [S, S]");
    if (out.view.ndim != 2 || out.view.shape[0] < 1 || out.view.shape[1] < 1) return fail("the mask is not [H, W]");
    if (map.view.shape[0] > MAX_SIDE || out.view.shape[0] > MAX_SIDE || out.view.shape[1] > MAX_SIDE) return fail("a side is too long");
    const auto size = static_cast<seseg::u32>(map.view.shape[0]);
    const auto height = static_cast<seseg::u32>(out.view.shape[0]), width = static_cast<seseg::u32>(out.view.shape[1]);
    if (!unlocked([&] { seseg::resize_map(map.bytes(), size, out.bytes(), width, height); })) return nullptr;
    Py_RETURN_NONE;
}

// The array struct of the Arrow C data interface: https://arrow.apache.org/docs/format/CDataInterface.html
struct ArrowArray {
    std::int64_t length, null_count, offset, n_buffers, n_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};

// Return the memory of a Pillow RGB image, which Arrow describes as a fixed-size list of 4 bytes for each pixel. Return null, with
// BufferError set, if the array has another layout.
const std::uint8_t* arrow_pixels(PyObject* capsule, std::size_t count) {
    const auto* array = static_cast<const ArrowArray*>(PyCapsule_GetPointer(capsule, "arrow_array"));
    if (!array) return nullptr;
    if (array->release && array->length == static_cast<std::int64_t>(count) && array->offset == 0 && array->n_children == 1 && array->children && array->children[0]) {
        const ArrowArray* bytes = array->children[0];
        if (bytes->length == static_cast<std::int64_t>(4 * count) && bytes->offset == 0 && bytes->n_buffers == 2 && bytes->buffers[1])
            return static_cast<const std::uint8_t*>(bytes->buffers[1]);
    }
    PyErr_SetString(PyExc_BufferError, "the image is not one of 4 bytes a pixel, or not as large as its mask");
    return nullptr;
}

PyObject* cover(PyObject*, PyObject* arguments) {
    PyObject *image_object, *mask_object, *out_object;
    unsigned char color[3];
    int rest;
    if (!PyArg_ParseTuple(arguments, "OO(bbb)pO", &image_object, &mask_object, &color[0], &color[1], &color[2], &rest, &out_object)) return nullptr;
    Buffer image, mask, out;
    if (!mask.take(mask_object, false) || !out.take(out_object, true)) return nullptr;
    if (mask.view.ndim != 2 || !out.has_shape(3, {mask.view.shape[0], mask.view.shape[1], 3})) return fail("the mask is not [H, W], or the result not [H, W, 3]");
    const std::size_t height = static_cast<std::size_t>(mask.view.shape[0]), width = static_cast<std::size_t>(mask.view.shape[1]);
    const std::uint8_t* pixels;
    std::size_t stride = 3;
    if (PyCapsule_CheckExact(image_object)) {
        stride = 4;
        pixels = arrow_pixels(image_object, height * width);
        if (!pixels) return nullptr;
    } else {
        if (!image.take(image_object, false)) return nullptr;
        if (!image.has_shape(3, {mask.view.shape[0], mask.view.shape[1], 3})) return fail("the image is not [H, W, 3]");
        pixels = image.bytes();
    }
    const seseg::u8 flip = rest ? 255 : 0;
    if (!unlocked([&] { seseg::cover(pixels, stride, mask.bytes(), flip, color, height, width, out.bytes()); })) return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"compress_rows", compress_rows, METH_O,
     "compress_rows(rows)\n--\n\nFilter uint8 [H, L] with PNG's \"Up\" and return the rows as a zlib stream for IDAT chunks."},
    {"resize_map", resize_map, METH_VARARGS,
     "resize_map(confidence, out)\n--\n\nResize uint8 [S, S] into `out`, uint8 [H, W], with Pillow's BICUBIC, horizontally first."},
    {"cover", cover, METH_VARARGS,
     "cover(image, mask, color, rest, out)\n--\n\nBlend (R, G, B) over an image into `out`, uint8 [H, W, 3], by a mask, uint8 [H, W]. `rest` inverts the mask.\n"
     "The image is uint8 [H, W, 3], or the array capsule of an RGB image's __arrow_c_array__()."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef_Slot SLOTS[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "seseg_trt.native._native", "Compiled functions for masks and PNG files; see seseg_trt/native/.", 0,
                      METHODS, SLOTS, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&MODULE); }
