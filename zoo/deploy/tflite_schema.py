"""The part of TFLite's schema (version 3) that networks here use, as data.

Numbers are those of tensorflow/compiler/mlir/lite/schema/schema.fbs. Fields that would change what
a file means, and that are not understood here, are listed as "present" so that a reader can refuse
them.
"""

from dataclasses import dataclass

from zoo.deploy.flatbuffer import Field, Table

IDENTIFIER = b"TFL3"

TENSOR_TYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "complex64": 8,
    "int8": 9,
    "float64": 10,
    "complex128": 11,
    "uint64": 12,
    "resource": 13,
    "uint32": 15,
    "uint16": 16,
}
# What else a tensor may be; nothing here reads it.
OTHER_TYPES = {5: "string", 14: "variant", 17: "int4", 18: "bfloat16", 19: "int2", 20: "uint4"}
OTHER_TYPES |= {21: "float8_e4m3fn", 22: "float8_e5m2"}
ACTIVATIONS = {None: 0, "relu": 1, "relu_n1_to_1": 2, "relu6": 3}
SAME, VALID = 0, 1


@dataclass(frozen=True)
class Builtin:
    """An operator of the schema.

    Attributes:
        code: its number among the built-in operators.
        options: the number of its options in their union; 0 for none.
        int8: the first version that takes int8 (tensorflow/lite/tools/versioning).
        int16: the first version that takes int16.

    """

    code: int
    options: int
    int8: int = 2
    int16: int = 3

    def version(self, dtype: str) -> int:
        """Return the first version that takes inputs of a type; floats are as old as TFLite."""
        return {"int8": self.int8, "int16": self.int16}.get(dtype, 1)


OPERATORS = {
    "ADD": Builtin(0, 11),
    "AVERAGE_POOL_2D": Builtin(1, 5),
    "CONCATENATION": Builtin(2, 10),
    "CONV_2D": Builtin(3, 1, int8=3, int16=4),
    "DEPTHWISE_CONV_2D": Builtin(4, 2, int8=3, int16=5),
    "DEPTH_TO_SPACE": Builtin(5, 94, int8=1, int16=1),
    "DEQUANTIZE": Builtin(6, 38),
    "FLOOR": Builtin(8, 0),
    "FULLY_CONNECTED": Builtin(9, 8, int8=4, int16=7),
    "LOGISTIC": Builtin(14, 0),
    "MAX_POOL_2D": Builtin(17, 5),
    "MUL": Builtin(18, 21, int16=4),
    "RELU": Builtin(19, 0),
    "RELU6": Builtin(21, 0),
    "RESHAPE": Builtin(22, 17, int8=1, int16=1),
    "RESIZE_BILINEAR": Builtin(23, 15, int16=4),
    "SOFTMAX": Builtin(25, 9),
    "SPACE_TO_DEPTH": Builtin(26, 19, int8=2),
    "SVDF": Builtin(27, 6, int8=3),
    "TANH": Builtin(28, 0),
    "PAD": Builtin(34, 22),
    "TRANSPOSE": Builtin(39, 26, int16=4),
    "MEAN": Builtin(40, 27),
    "SUB": Builtin(41, 28, int16=5),
    "SQUEEZE": Builtin(43, 30),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Builtin(44, 71),
    "STRIDED_SLICE": Builtin(45, 32, int16=4),
    "EXP": Builtin(47, 33),
    "SPLIT": Builtin(49, 35, int16=4),
    "CAST": Builtin(53, 37, int8=1, int16=1),
    "PRELU": Builtin(54, 0, int8=1, int16=1),
    "MAXIMUM": Builtin(55, 39),
    "ARG_MAX": Builtin(56, 40),
    "MINIMUM": Builtin(57, 39),
    "NEG": Builtin(59, 42),
    "PADV2": Builtin(60, 43),
    "SLICE": Builtin(65, 48, int16=4),
    "TRANSPOSE_CONV": Builtin(67, 49, int8=4, int16=4),
    "TILE": Builtin(69, 51),
    "EXPAND_DIMS": Builtin(70, 52, int8=1, int16=1),
    "LOG": Builtin(73, 0),
    "SUM": Builtin(74, 27),
    "SQRT": Builtin(75, 0),
    "RSQRT": Builtin(76, 0),
    "ARG_MIN": Builtin(79, 57),
    "REDUCE_MAX": Builtin(82, 27),
    "PACK": Builtin(83, 59, int8=2, int16=3),
    "UNPACK": Builtin(88, 64, int8=2, int16=3),
    "REDUCE_MIN": Builtin(89, 27),
    "SQUARE": Builtin(92, 66),
    "RESIZE_NEAREST_NEIGHBOR": Builtin(97, 74, int16=4),
    "LEAKY_RELU": Builtin(98, 75, int16=2),
    "SQUARED_DIFFERENCE": Builtin(99, 76),
    "SPLIT_V": Builtin(102, 79, int16=2),
    "QUANTIZE": Builtin(114, 89, int8=1, int16=2),
    "HARD_SWISH": Builtin(117, 91, int8=1),
    "ELU": Builtin(111, 0, int8=1),
    "BATCH_MATMUL": Builtin(126, 101),
    "GELU": Builtin(150, 116),
}
# Operators that leave none in a graph: of states, which it has by name, and of known shapes.
FOLLOWED = {
    "SHAPE": Builtin(77, 55),
    "CALL_ONCE": Builtin(129, 103),
    "VAR_HANDLE": Builtin(142, 111),
    "READ_VARIABLE": Builtin(143, 112),
    "ASSIGN_VARIABLE": Builtin(144, 113),
}
# The newest version of each that LiteRT's reference kernels know; what a newer one means is not.
_VERSIONS = """
    ADD 5 AVERAGE_POOL_2D 3 CONCATENATION 7 CONV_2D 8 DEPTHWISE_CONV_2D 6 DEPTH_TO_SPACE 1
    DEQUANTIZE 9 FLOOR 1 FULLY_CONNECTED 14 L2_NORMALIZATION 2 LOGISTIC 3 MAX_POOL_2D 3 MUL 7 RELU 3
    RELU_N1_TO_1 1 RELU6 3 RESHAPE 1 RESIZE_BILINEAR 4 SOFTMAX 3 SPACE_TO_DEPTH 2 SVDF 4 TANH 3
    PAD 6 GATHER 8 BATCH_TO_SPACE_ND 4 SPACE_TO_BATCH_ND 4 TRANSPOSE 8 MEAN 3 SUB 5 DIV 2 SQUEEZE 1
    UNIDIRECTIONAL_SEQUENCE_LSTM 3 STRIDED_SLICE 4 EXP 2 SPLIT 5 LOG_SOFTMAX 2 CAST 9 PRELU 1
    MAXIMUM 4 ARG_MAX 2 MINIMUM 4 LESS 3 NEG 1 PADV2 6 GREATER 2 GREATER_EQUAL 3 LESS_EQUAL 2
    SELECT 4 SLICE 8 TRANSPOSE_CONV 5 TILE 2 EXPAND_DIMS 1 EQUAL 5 NOT_EQUAL 4 LOG 2 SUM 2 SQRT 2
    RSQRT 3 SHAPE 1 POW 1 ARG_MIN 2 REDUCE_MAX 3 PACK 5 LOGICAL_OR 1 LOGICAL_AND 1 LOGICAL_NOT 1
    UNPACK 6 REDUCE_MIN 3 SQUARE 1 RESIZE_NEAREST_NEIGHBOR 4 LEAKY_RELU 2 SQUARED_DIFFERENCE 2
    MIRROR_PAD 3 ABS 3 SPLIT_V 3 REVERSE_V2 4 QUANTIZE 6 HARD_SWISH 1 SELECT_V2 2 BATCH_MATMUL 4
    CUMSUM 1 CALL_ONCE 1 BROADCAST_TO 4 VAR_HANDLE 1 READ_VARIABLE 1 ASSIGN_VARIABLE 1 GELU 2
    RELU_0_TO_1 1 ELU 1
"""
_PAIRS = _VERSIONS.split()
NEWEST = {name: int(version) for name, version in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
# What the codes 0, 1, 2, ... are called, for messages.
_BY_CODE = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM
    CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
    SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
    CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE
    SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW
    ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK
    REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR
    LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS
    WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG
    REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL
    BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
    UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
    RIGHT_SHIFT
"""
NAMES = _BY_CODE.split()


def _table(title: str, /, **fields: Field) -> Table:
    return Table(title, fields)


def _int(slot: int, default: int = 0) -> Field:
    return Field(slot, "int32", default=default)


def _byte(slot: int) -> Field:
    return Field(slot, "int8")


def _flag(slot: int) -> Field:
    return Field(slot, "bool", default=False)


# Whether int16 sums of powers of two may be shifted rather than rescaled.
_POT = Field(1, "bool", default=True)
_POOL = _table(
    "Pool2DOptions",
    padding=_byte(0),
    stride_w=_int(1),
    stride_h=_int(2),
    filter_width=_int(3),
    filter_height=_int(4),
    activation=_byte(5),
)
OPTIONS = {
    1: _table(
        "Conv2DOptions",
        padding=_byte(0),
        stride_w=_int(1),
        stride_h=_int(2),
        activation=_byte(3),
        dilation_w=_int(4, 1),
        dilation_h=_int(5, 1),
    ),
    2: _table(
        "DepthwiseConv2DOptions",
        padding=_byte(0),
        stride_w=_int(1),
        stride_h=_int(2),
        depth_multiplier=_int(3),
        activation=_byte(4),
        dilation_w=_int(5, 1),
        dilation_h=_int(6, 1),
    ),
    5: _POOL,
    6: _table("SVDFOptions", rank=_int(0), activation=_byte(1)),
    8: _table(
        "FullyConnectedOptions",
        activation=_byte(0),
        weights_format=_byte(1),
        keep_num_dims=_flag(2),
        asymmetric_quantize_inputs=_flag(3),
    ),
    9: _table("SoftmaxOptions", beta=Field(0, "float32", default=0.0)),
    10: _table("ConcatenationOptions", axis=_int(0), activation=_byte(1)),
    11: _table("AddOptions", activation=_byte(0), pot_scale_int16=_POT),
    15: _table("ResizeBilinearOptions", align_corners=_flag(2), half_pixel_centers=_flag(3)),
    17: _table("ReshapeOptions", new_shape=Field(0, "vector", "int32")),
    19: _table("SpaceToDepthOptions", block_size=_int(0)),
    21: _table("MulOptions", activation=_byte(0)),
    22: _table("PadOptions"),
    26: _table("TransposeOptions"),
    27: _table("ReducerOptions", keep_dims=_flag(0)),
    28: _table("SubOptions", activation=_byte(0), pot_scale_int16=_POT),
    30: _table("SqueezeOptions", squeeze_dims=Field(0, "vector", "int32")),
    32: _table(
        "StridedSliceOptions",
        begin_mask=_int(0),
        end_mask=_int(1),
        ellipsis_mask=_int(2),
        new_axis_mask=_int(3),
        shrink_axis_mask=_int(4),
        offset=_flag(5),
    ),
    35: _table("SplitOptions", num_splits=_int(0)),
    37: _table("CastOptions", in_data_type=_byte(0), out_data_type=_byte(1)),
    38: _table("DequantizeOptions"),
    39: _table("MaximumMinimumOptions"),
    40: _table("ArgMaxOptions", output_type=_byte(0)),
    43: _table("PadV2Options"),
    48: _table("SliceOptions"),
    49: _table(
        "TransposeConvOptions",
        padding=_byte(0),
        stride_w=_int(1),
        stride_h=_int(2),
        activation=_byte(3),
    ),
    52: _table("ExpandDimsOptions"),
    55: _table("ShapeOptions", out_type=_byte(0)),
    57: _table("ArgMinOptions", output_type=_byte(0)),
    59: _table("PackOptions", values_count=_int(0), axis=_int(1)),
    64: _table("UnpackOptions", num=_int(0), axis=_int(1)),
    71: _table(
        "UnidirectionalSequenceLSTMOptions",
        activation=_byte(0),
        cell_clip=Field(1, "float32", default=0.0),
        time_major=_flag(3),
        diagonal_recurrent_tensors=_flag(5),
    ),
    74: _table("ResizeNearestNeighborOptions", align_corners=_flag(0), half_pixel_centers=_flag(1)),
    75: _table("LeakyReluOptions", alpha=Field(0, "float32", default=0.0)),
    79: _table("SplitVOptions", num_splits=_int(0)),
    33: _table("ExpOptions"),
    42: _table("NegOptions"),
    51: _table("TileOptions"),
    66: _table("SquareOptions"),
    76: _table("SquaredDifferenceOptions"),
    89: _table("QuantizeOptions"),
    91: _table("HardSwishOptions"),
    94: _table("DepthToSpaceOptions", block_size=_int(0)),
    101: _table("BatchMatMulOptions", adj_x=_flag(0), adj_y=_flag(1)),
    103: _table("CallOnceOptions", init_subgraph_index=_int(0)),
    111: _table("VarHandleOptions", container=Field(0, "string"), shared_name=Field(1, "string")),
    112: _table("ReadVariableOptions"),
    116: _table("GeluOptions", approximate=_flag(0)),
    113: _table("AssignVariableOptions"),
}
QUANTIZATION = _table(
    "QuantizationParameters",
    scale=Field(2, "vector", "float32"),
    zero_point=Field(3, "vector", "int64"),
    details=Field(5, "present"),
    quantized_dimension=_int(6),
)
TENSOR = _table(
    "Tensor",
    shape=Field(0, "vector", "int32"),
    type=_byte(1),
    buffer=Field(2, "uint32"),
    name=Field(3, "string"),
    quantization=Field(4, "table", QUANTIZATION),
    is_variable=_flag(5),
    sparsity=Field(6, "present"),
    shape_signature=Field(7, "vector", "int32"),
    external_buffer=Field(10, "uint32"),
)
OPERATOR = _table(
    "Operator",
    opcode_index=Field(0, "uint32"),
    inputs=Field(1, "vector", "int32"),
    outputs=Field(2, "vector", "int32"),
    builtin_options_type=Field(3, "uint8"),
    builtin_options=Field(4, "union", OPTIONS, tag="builtin_options_type"),
    intermediates=Field(8, "vector", "int32"),
)
SUBGRAPH = _table(
    "SubGraph",
    tensors=Field(0, "tables", TENSOR),
    inputs=Field(1, "vector", "int32"),
    outputs=Field(2, "vector", "int32"),
    operators=Field(3, "tables", OPERATOR),
    name=Field(4, "string"),
)
OPERATOR_CODE = _table(
    "OperatorCode",
    deprecated_builtin_code=_byte(0),
    custom_code=Field(1, "string"),
    version=_int(2, 1),
    builtin_code=_int(3),
)
BUFFER = _table(
    "Buffer",
    data=Field(0, "vector", "uint8", align=16),
    offset=Field(1, "uint64"),
    size=Field(2, "uint64"),
)
METADATA = _table("Metadata", name=Field(0, "string"), buffer=Field(1, "uint32"))
SIGNATURE = _table(
    "SignatureDef", signature_key=Field(2, "string"), subgraph_index=Field(4, "uint32")
)
MODEL = _table(
    "TFLite",
    version=Field(0, "uint32"),
    operator_codes=Field(1, "tables", OPERATOR_CODE),
    subgraphs=Field(2, "tables", SUBGRAPH),
    description=Field(3, "string"),
    buffers=Field(4, "tables", BUFFER),
    metadata=Field(6, "tables", METADATA),
    signature_defs=Field(7, "tables", SIGNATURE),
)
