"""LiteRT, the runtime of TensorFlow Lite, as an oracle: models of a few operators, written with the schema that it brings.

A layer is a 1 x 1 convolution, because LiteRT's reference kernel for fully connected layers computes with doubles, and the
one for convolutions with integers.
"""

import numpy as np

from quant101.samples import load_sample

KERNELS = {"reference": "BUILTIN_REF", "optimized": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "XNNPACK": "BUILTIN"}


class Model:
    "A TensorFlow Lite model that is being put together."

    def __init__(self):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.model, self.graph = schema, schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.operatorCodes, self.model.buffers, self.model.subgraphs = 3, [], [schema.BufferT()], [self.graph]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, shape, dtype, scale, zero_point=0, data=None):
        "Add a tensor, constant if it has data; more than one scale belongs to its first axis."
        tensor, quantization = self.schema.TensorT(), self.schema.QuantizationParametersT()
        tensor.shape, tensor.name, tensor.buffer = list(shape), f"t{len(self.graph.tensors)}", 0
        tensor.type = getattr(self.schema.TensorType, np.dtype(dtype).name.upper())
        quantization.scale = [float(one) for one in np.ravel(scale)]
        quantization.zeroPoint, quantization.quantizedDimension = [int(zero_point)] * np.size(scale), 0
        tensor.quantization = quantization
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, name, inputs, output, version, **settings):
        "Add an operator; its options are set by name."
        words = {"CONV_2D": "Conv2DOptions", "ADD": "AddOptions", "AVERAGE_POOL_2D": "Pool2DOptions"}
        code, operator, options = self.schema.OperatorCodeT(), self.schema.OperatorT(), getattr(self.schema, words[name] + "T")()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = version
        self.model.operatorCodes.append(code)
        vars(options).update(settings)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = getattr(self.schema.BuiltinOptions, words[name]), options
        self.graph.operators.append(operator)
        return output

    def run(self, kernels, outputs, **inputs):
        "Run the model by one kind of kernels; inputs are given as t0=array, outputs asked for by number."
        import flatbuffers
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.graph.inputs, self.graph.outputs = [int(name[1:]) for name in inputs], list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1,
                                  experimental_op_resolver_type=OpResolverType[KERNELS[kernels]])
        interpreter.allocate_tensors()
        for detail, array in zip(interpreter.get_input_details(), inputs.values()):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def add_layer(model, x, weight, bias, scales, y, activation="NONE"):
    "Add a layer: int8 weight (outputs, inputs), int32 bias, (input scale, weight scales); y is its output's number."
    input_scale, weight_scale = scales
    weight_scale = np.broadcast_to(weight_scale, len(weight))
    w = model.tensor((len(weight), 1, 1, weight.shape[1]), np.int8, weight_scale, data=weight)
    b = model.tensor((len(weight),), np.int32, np.float32(input_scale) * np.float32(weight_scale), data=bias)
    kind = getattr(model.schema.ActivationFunctionType, activation)
    return model.operator("CONV_2D", [x, w, b], y, 3, padding=model.schema.Padding.VALID, strideW=1, strideH=1, dilationWFactor=1,
                          dilationHFactor=1, fusedActivationFunction=kind)


def requantized(sums, input_scale, weight_scale, output_scale, zero_point, dtype=np.int8, kernels="reference", activation="NONE"):
    "The codes that LiteRT makes of int32 sums: they are the biases of a layer whose weights are 0."
    model, sums = Model(), np.asarray(sums, np.int32)
    x = model.tensor((1, 1, 1, 1), dtype, input_scale)
    y = model.tensor((1, 1, 1, len(sums)), dtype, output_scale, zero_point)
    add_layer(model, x, np.zeros((len(sums), 1), np.int8), sums, (input_scale, weight_scale), y, activation)
    return model.run(kernels, [y], t0=np.zeros((1, 1, 1, 1), dtype))[0].ravel()


def added(a, a_place, b, b_place, y_place, kernels="reference"):
    "LiteRT's sum of two vectors of int8 codes; a place is scale and zero point."
    model = Model()
    tensors = [model.tensor(a.shape, np.int8, *place) for place in (a_place, b_place, y_place)]
    model.operator("ADD", tensors[:2], tensors[2], 2, fusedActivationFunction=0, potScaleInt16=False)
    return model.run(kernels, tensors[2:], t0=a, t1=b)[0]


def averaged(codes, kernels="reference"):
    "LiteRT's average over the first two axes of an image of int8 codes, shape (height, width, channels)."
    model, (height, width, channels) = Model(), codes.shape
    x, y = (model.tensor((1, *shape, channels), np.int8, 0.5) for shape in ((height, width), (1, 1)))
    model.operator("AVERAGE_POOL_2D", [x], y, 2, padding=model.schema.Padding.VALID, strideW=1, strideH=1, filterWidth=width,
                   filterHeight=height, fusedActivationFunction=0)
    return model.run(kernels, [y], t0=codes[None])[0].ravel()


def digits():
    """The digits network of chapter 8 in integers, made with NumPy alone: ranges from the first 100 images.

    Each of three layers: weight codes, their scales, int32 bias, and the places (scale, zero point) of input and output.
    """
    pixels = load_sample("digit_pixels")[:100] / 16
    weights, biases = ([load_sample(f"digit_{kind}_{i}").astype(np.float64) for i in (1, 2, 3)] for kind in ("weight", "bias"))
    first = np.maximum(pixels @ weights[0].T + biases[0], 0)
    second = np.maximum(first @ weights[1].T + biases[1], 0)
    both = first + second
    ends = [(min(0, v.min()), v.max()) for v in (first, second, both, both @ weights[2].T + biases[2])]
    scales = [np.float32((float(np.float32(high)) - float(np.float32(low))) / 255) for low, high in ends]
    places = [(scale, int(np.rint(-128 - float(np.float32(low)) / float(scale)))) for scale, (low, _) in zip(scales, ends)]
    layers = []
    for weight, bias, x, y in zip(weights, biases, [(np.float32(1 / 16), 0), places[0], places[2]], [places[0], places[1], places[3]]):
        scale = np.abs(weight).max(axis=1).astype(np.float32) / np.float32(127)
        codes = np.rint(weight.astype(np.float32) / scale[:, None]).astype(np.int8)
        whole = np.rint(bias / (float(x[0]) * scale.astype(np.float64))).astype(np.int32)
        layers.append({"weight": codes, "weight_scale": scale, "bias": whole, "x": x, "y": y})
    return {"layers": layers, "sum": places[2]}


def digits_by(kernels):
    "What LiteRT makes of all images: the codes after the first and the second layer, of their sum, and of the ten outputs."
    network, codes, model = digits(), load_sample("digit_pixels").astype(np.int8), Model()
    one, two, three = network["layers"]
    n = len(codes)
    pixels = model.tensor((n, 1, 1, 64), np.int8, *one["x"])
    outputs = [model.tensor((n, 1, 1, wide), np.int8, *place) for wide, place in ((32, one["y"]), (32, two["y"]), (32, network["sum"]), (10, three["y"]))]
    for layer, x, y, kind in ((one, pixels, outputs[0], "RELU"), (two, outputs[0], outputs[1], "RELU"), (three, outputs[2], outputs[3], "NONE")):
        if layer is three:
            model.operator("ADD", outputs[:2], outputs[2], 2, fusedActivationFunction=0, potScaleInt16=False)
        add_layer(model, x, layer["weight"], layer["bias"], (layer["x"][0], layer["weight_scale"]), y, kind)
    return [found.reshape(n, -1) for found in model.run(kernels, outputs, t0=codes.reshape(n, 1, 1, 64))]
