"""One network in TensorRT, for gpu.py: TensorRT's Python package and the driver, nothing else (no PyCUDA, no PyTorch).

Written against the documented interfaces of TensorRT 8.2 (JetPack 4) to 11: tensors by name where there are names (8.5 and
newer), bindings before; precision by flags where there are flags (up to 10), by the model's types in any case. Untested: it
has not run with TensorRT yet, for want of a GPU. Its calls to the driver have, with runtime/cuda/interpreter as the driver.
"""
import ctypes
import os

BYTES = 4  # inputs and outputs are float


class Driver:
    """The CUDA driver with the primary context of a GPU, which TensorRT uses, too."""

    def __init__(self, library=None, gpu=0):
        self.cuda = ctypes.CDLL(library or os.environ.get("RIDE_CUDA_LIBRARY") or "libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", ctypes.c_uint(0))
        self.call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(gpu))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(1))

    def call(self, name, *arguments):
        code = getattr(self.cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            known = self.cuda.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
            raise RuntimeError("{} failed: {}".format(name, text.value.decode() if known else code))

    def allocate(self, size):
        """Bytes of the GPU."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def pinned(self, size):
        """Page-locked bytes of the host, which copies by the GPU itself need."""
        address = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(1))
        return address

    def upload(self, to, host, size):
        self.call("cuMemcpyHtoDAsync_v2", to, host, ctypes.c_size_t(size), self.stream)

    def download(self, host, source, size):
        self.call("cuMemcpyDtoHAsync_v2", host, source, ctypes.c_size_t(size), self.stream)

    def wait(self):
        self.call("cuStreamSynchronize", self.stream)

    def graph(self, work):
        """What `work` puts into the stream, as one launch; `work` itself where the driver or the work cannot do that."""
        graph, launch = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self.call("cuStreamBeginCapture_v2", self.stream, ctypes.c_int(2))  # mode relaxed
        except (AttributeError, RuntimeError):
            return work
        try:
            work()
            self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            self.call("cuGraphInstantiateWithFlags", ctypes.byref(launch), graph, ctypes.c_uint64(0))
        except (AttributeError, RuntimeError):
            # A capture that failed has to be ended, or the stream takes nothing more.
            self.cuda.cuStreamEndCapture(self.stream, ctypes.byref(graph))
            return work
        return lambda: self.call("cuGraphLaunch", launch, self.stream)


def build(path, int8):
    """Compiles an ONNX file; the engine as bytes."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    if int8 and not getattr(builder, "platform_has_fast_int8", True):
        raise RuntimeError("this GPU has no fast int8")
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    with open(path, "rb") as file:
        if not parser.parse(file.read()):
            raise RuntimeError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    for name in ("FP16", "INT8") if int8 else ("FP16",):
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is not None:
            config.set_flag(flag)
    if not hasattr(config, "set_memory_pool_limit"):
        config.max_workspace_size = 1 << 28  # before 8.4, where 0 was the default
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT builds no engine of {}".format(path))
    return bytes(plan)


def cached(path, int8, cache):
    """The engine, built once for all passes of a comparison."""
    plan = os.path.join(cache, os.path.basename(path) + ".plan")
    if not os.path.exists(plan):
        data = build(path, int8)
        with open(plan + ".new", "wb") as file:
            file.write(data)
        os.rename(plan + ".new", plan)
    with open(plan, "rb") as file:
        return file.read()


def tensors(engine, trt):
    """Name or number, shape and direction of each tensor, in TensorRT's order."""
    if hasattr(engine, "num_io_tensors"):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        kinds = [(engine.get_tensor_shape(n), engine.get_tensor_dtype(n)) for n in names]
        inputs = [engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names]
    else:
        names = list(range(engine.num_bindings))
        kinds = [(engine.get_binding_shape(n), engine.get_binding_dtype(n)) for n in names]
        inputs = [engine.binding_is_input(n) for n in names]
    if sorted(inputs) != [False, True] or any(dtype != trt.DataType.FLOAT for _, dtype in kinds):
        raise RuntimeError("the engine must have one input and one output, both float")
    return [(name, tuple(shape), is_input) for name, (shape, _), is_input in zip(names, kinds, inputs)]


def runner(path, x, int8, cache):
    """A function that runs one inference, copies included, and gives the logits."""
    import numpy as np
    import tensorrt as trt

    driver = Driver()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(cached(path, int8, cache))
    context = engine.create_execution_context()
    addresses, host, sizes, shapes = {}, {}, {}, {}
    order = tensors(engine, trt)
    for name, shape, is_input in order:
        sizes[is_input], shapes[is_input] = int(np.prod(shape)) * BYTES, shape
        addresses[is_input], host[is_input] = driver.allocate(sizes[is_input]), driver.pinned(sizes[is_input])
        if hasattr(context, "set_tensor_address"):
            context.set_tensor_address(name, addresses[is_input].value)
    if shapes[True] != x.shape:
        raise RuntimeError("the engine takes {}, the image is {}".format(shapes[True], x.shape))
    view = lambda side: np.ctypeslib.as_array(ctypes.cast(host[side], ctypes.POINTER(ctypes.c_float)), shapes[side])
    image, logits = view(True), view(False)

    def enqueue():
        driver.upload(addresses[True], host[True], sizes[True])
        if hasattr(context, "execute_async_v3"):
            done = context.execute_async_v3(driver.stream.value)
        else:
            done = context.execute_async_v2([addresses[side].value for _, _, side in order], driver.stream.value)
        if not done:
            raise RuntimeError("TensorRT does not run the engine")
        driver.download(host[False], addresses[False], sizes[False])

    enqueue()  # what TensorRT sets up in the first run must not be captured
    driver.wait()
    launch = driver.graph(enqueue)

    def run(keep=(runtime, engine)):  # both must outlive the context
        image[:] = x
        launch()
        driver.wait()
        return logits

    return run
