"""What every PyTorch operation means for the path of the data, by name.

One table serves both captures: the functions of the Python API and the aten operators beneath them carry the same
names up to underscores and a few prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Family(Enum):
    """How an operation treats its data."""

    PASS = auto()  # no tensor comes out: shape, size, dtype
    CONST = auto()  # the result has nothing to do with the values that went in: zeros_like, randn
    DETACH = auto()
    ESCAPE = auto()  # the values leave PyTorch: numpy()
    IDENT = auto()  # rearranges, casts, copies
    SPLIT = auto()  # several outputs, each a part
    SLICE = auto()
    RESAMPLE = auto()  # changes the resolution: pooling, interpolation
    NORM = auto()
    SQUASH = auto()  # bounded: sigmoid, softmax, tanh
    CONV = auto()
    MATMUL = auto()  # a weighted layer if one factor is a parameter, else a mix of data
    RECURRENT = auto()
    ATTENTION = auto()  # multi_head_attention_forward: two layers in one call
    EMBEDDING = auto()
    ADDMM = auto()  # bias + a @ b
    ADD = auto()
    CAT = auto()
    STACK = auto()
    MUL = auto()
    EXTREME = auto()  # elementwise maximum
    WRITE = auto()  # x[...] = y and its kin
    COPY = auto()  # x.copy_(y)
    OTHER = auto()  # one operand: an activation; several: a mix


def _names(text: str) -> list[str]:
    return text.split()


_TABLE: dict[str, Family] = {}
for _family, _text in {
    Family.PASS: """shape size dim ndim ndimension numel nelement stride storage_offset storage untyped_storage data_ptr
        dtype device layout is_cuda is_meta is_cpu is_nested is_sparse is_quantized is_complex is_floating_point
        is_contiguous is_leaf requires_grad requires_grad_ grad grad_fn element_size itemsize nbytes len bool int float
        index item is_inference is_conj is_neg equal allclose is_same_size broadcast_shapes set_grad_enabled
        repr str format hash contains iter retain_grad register_hook names has_names result_type can_cast get_device
        is_tensor is_storage is_pinned type_as_str names is_shared is_signed version backward output_nr base is_mkldnn
        is_xla is_mps is_ipu is_maia is_xpu is_vulkan is_mtia names sym_size sym_stride sym_numel sym_storage_offset
        local_scalar_dense manual_seed get_rng_state set_rng_state has_compatible_shallow_copy_type""",
    Family.CONST: """zeros ones empty full rand randn randint randperm arange range linspace logspace eye tensor
        as_tensor scalar_tensor zeros_like ones_like empty_like full_like rand_like randn_like randint_like
        new_zeros new_ones new_empty new_full new_tensor empty_strided new_empty_strided bernoulli fill zero normal
        uniform random exponential log_normal cauchy geometric multinomial tril_indices triu_indices hann_window
        hamming_window nonzero argmax argmin argsort eq ne lt le gt ge isnan isinf isfinite logical_and logical_or
        logical_not logical_xor bucketize searchsorted unique unique2 nms meshgrid constant init
        fft_fftfreq fft_rfftfreq empty_permuted efficientzerotensor poisson
        kaiser_window blackman_window bartlett_window cartesian_prod""",
    Family.DETACH: "detach data",
    Family.ESCAPE: "numpy array dlpack to_dlpack tolist",
    Family.IDENT: """view view_as reshape reshape_as permute transpose swapaxes swapdims movedim moveaxis t T mT H mH
        adjoint flatten unflatten squeeze unsqueeze unsafe_view reshape_alias alias clone contiguous to to_copy type
        type_as double half bfloat16 float32 cpu cuda roll pad constant_pad_nd reflection_pad1d reflection_pad2d
        reflection_pad3d replication_pad1d replication_pad2d replication_pad3d dropout dropout1d dropout2d dropout3d
        alpha_dropout feature_dropout feature_alpha_dropout native_dropout expand expand_as broadcast_to
        broadcast_tensors repeat tile repeat_interleave flip fliplr flipud rot90 ravel lift lift_fresh lift_fresh_copy
        identity resolve_conj resolve_neg positive view_as_real view_as_complex channel_shuffle native_channel_shuffle
        unfold fold im2col col2im unfold_copy atleast_1d atleast_2d atleast_3d squeeze_copy checkpoint as_subclass
        pin_memory nan_to_num masked_fill zero_pad stochastic_depth real imag neg negative conj conj_physical cumsum
        diff tril triu stft istft diag_embed deg2rad rad2deg trapz trapezoid cumulative_trapezoid quantize_per_tensor
        quantize_per_tensor_dynamic quantize_per_channel dequantize int_repr gradient""",
    Family.SPLIT: """split chunk unbind tensor_split split_with_sizes unsafe_split unsafe_chunk unsafe_split_with_sizes
        hsplit vsplit dsplit""",
    Family.SLICE: """getitem slice select narrow index index_select take_along_dim gather masked_select as_strided
        diagonal""",
    Family.RESAMPLE: """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d
        lp_pool2d lp_pool3d fractional_max_pool2d fractional_max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
        adaptive_max_pool3d_with_indices fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices
        mkldnn_max_pool2d quantized_max_pool2d interpolate upsample upsample_nearest upsample_bilinear
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d
        upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
        upsample_bilinear2d_aa upsample_bicubic2d_aa upsample_lanczos2d_aa grid_sample grid_sampler grid_sampler_2d
        grid_sampler_3d grid_sampler_2d_cpu_fallback max_unpool1d max_unpool2d max_unpool3d pixel_shuffle
        pixel_unshuffle roi_align roi_pool ps_roi_align ps_roi_pool mean sum amax amin max min std var norm logsumexp
        median nansum nanmean linalg_vector_norm var_mean std_mean prod all any cudnn_grid_sampler""",
    Family.NORM: """batch_norm native_batch_norm native_batch_norm_legit native_batch_norm_legit_no_training
        cudnn_batch_norm batch_norm_with_update batch_norm_no_update batch_norm_impl_index miopen_batch_norm layer_norm
        native_layer_norm group_norm native_group_norm instance_norm rms_norm fused_rms_norm normalize
        local_response_norm sync_batch_norm batch_norm_elemt frozen_batch_norm""",
    Family.SQUASH: """sigmoid softmax log_softmax tanh hardsigmoid hardtanh relu6 clamp clamp_min clamp_max clip
        softmax_2d gumbel_softmax safe_softmax softmin logsigmoid special_expit""",
    Family.CONV: """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution
        convolution_overrideable cudnn_convolution cudnn_convolution_transpose mkldnn_convolution deform_conv2d
        slow_conv2d_forward thnn_conv2d slow_conv3d conv_depthwise2d conv_depthwise3d slow_conv_transpose2d
        slow_conv_dilated2d miopen_convolution nnpack_spatial_convolution cudnn_convolution_relu conv1d_relu
        conv2d_relu conv3d_relu conv1d_dynamic conv2d_dynamic conv3d_dynamic""",
    Family.MATMUL: """linear matmul mm bmm mv dot einsum tensordot bilinear inner outer vdot multi_dot chain_matmul
        trilinear rmatmul ger kron linalg_matmul mkldnn_linear int_mm linear_dynamic
        linear_dynamic_fp16 linear_relu linear_relu_dynamic linear_leaky_relu linear_tanh""",
    Family.ADDMM: "addmm baddbmm addbmm addmv addr addmm_activation",
    Family.RECURRENT: """lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell mkldnn_rnn_layer
        cudnn_rnn miopen_rnn quantized_lstm quantized_gru quantized_lstm_cell_dynamic
        quantized_gru_cell_dynamic quantized_rnn_tanh_cell_dynamic quantized_rnn_relu_cell_dynamic thnn_fused_lstm_cell
        thnn_fused_gru_cell""",
    Family.ATTENTION: "multi_head_attention_forward native_multi_head_attention transformer_encoder_layer_fwd",
    Family.EMBEDDING: "embedding embedding_bag embedding_bag_forward_only embedding_renorm",
    Family.ADD: """add sub iadd isub radd rsub subtract addcmul addcdiv lerp index_add scatter_add scatter_reduce
        foreach_add logaddexp true_add add_relu""",
    Family.CAT: "cat concat concatenate hstack vstack dstack column_stack row_stack block_diag cat_relu",
    Family.STACK: "stack",
    Family.MUL: """mul imul rmul multiply div idiv rdiv truediv itruediv rtruediv true_divide divide floor_divide
        hadamard mul_relu""",
    Family.EXTREME: "maximum minimum fmax fmin",
    Family.WRITE: """setitem index_put slice_scatter select_scatter scatter index_copy masked_scatter diagonal_scatter
        as_strided_scatter index_fill index_put_impl put""",
    Family.COPY: "copy set_data",
}.items():
    for _name in _names(_text):
        _TABLE.setdefault(_name, _family)

_PROPERTIES = {"T", "mT", "H", "mH", "data", "real", "imag"}
"""Attributes of a tensor that are tensors of the same data."""

READS = {"item", "bool", "int", "float", "index", "equal", "allclose", "local_scalar_dense", "is_nonzero", "contains"}
"""Operations that look at values."""


@dataclass(frozen=True, slots=True)
class Op:
    """A function as the captures see it."""

    name: str
    """Public name, underscores stripped: ``iadd``, ``conv2d``."""
    family: Family
    writes: bool
    """May change its first operand in place, going by the name."""


def describe(func: Any) -> Op:
    """The operation behind a function that a TorchFunctionMode or a TorchDispatchMode is handed."""
    raw = getattr(func, "__name__", None) or str(func)
    if raw in ("__get__", "__set__", "__delete__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        if raw == "__set__":
            return Op("set_data" if attribute == "data" else "set", Family.PASS, attribute == "data")
        return Op(attribute, _TABLE.get(attribute, Family.PASS) if attribute in _PROPERTIES else Family.PASS, False)
    base = raw.split(".")[0]  # an OpOverload is called add.Tensor
    name = base.strip("_")
    inplace = base.endswith("_") and not base.endswith("__")
    if base in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__"):
        inplace = True
    if name == "index" and not base.startswith("__"):
        return Op(name, Family.SLICE, False)
    if name in ("float", "int", "bool") and not base.startswith("__"):
        return Op(name, Family.IDENT, False)
    family = _TABLE.get(name)
    if family is None:
        family = _by_pattern(name)
    return Op(name, family, inplace)


def _by_pattern(name: str) -> Family:
    """Operators whose names vary with the backend."""
    if "scaled_dot_product" in name or "flash_attention" in name or "efficient_attention" in name:
        return Family.OTHER
    if name.startswith("fft_"):
        return Family.IDENT
    for part, family in (
        ("batch_norm", Family.NORM),
        ("layer_norm", Family.NORM),
        ("convolution", Family.CONV),
        ("pool2d", Family.RESAMPLE),
        ("pool3d", Family.RESAMPLE),
        ("upsample", Family.RESAMPLE),
        ("softmax", Family.SQUASH),
    ):
        if part in name:
            return family
    return Family.OTHER
