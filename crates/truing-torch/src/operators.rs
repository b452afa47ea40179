//! The operators that this engine uses, each with its schema.
//!
//! [`OPERATORS`] is the whole table. A test looks every schema up in the installed libtorch and calls every operator.

use crate::error::TorchError;
use crate::ffi::{Operator, Tensor};

/// Declares operators, and lists them.
macro_rules! operators {
    ($($constant:ident = $name:literal, $overload:literal, $arguments:literal => $results:literal;)*) => {
        $(pub(crate) static $constant: Operator = Operator::new($name, $overload, $arguments, $results);)*

        /// Every operator.
        #[cfg(test)]
        pub(crate) static OPERATORS: &[&Operator] = &[$(&$constant),*];
    };
}

operators! {
    MM = c"aten::mm", c"", "Tensor self, Tensor mat2" => "Tensor";
    // The product of matrices in bfloat16, in single precision; for GPUs alone.
    MM_TO_DTYPE = c"aten::mm", c"dtype", "Tensor self, Tensor mat2, ScalarType out_dtype" => "Tensor";
    MUL = c"aten::mul", c"Tensor", "Tensor self, Tensor other" => "Tensor";
    DIV = c"aten::div", c"Tensor", "Tensor self, Tensor other" => "Tensor";
    GREATER = c"aten::gt", c"Tensor", "Tensor self, Tensor other" => "Tensor";
    MAXIMUM = c"aten::maximum", c"", "Tensor self, Tensor other" => "Tensor";
    NEG = c"aten::neg", c"", "Tensor self" => "Tensor";
    EXP = c"aten::exp", c"", "Tensor self" => "Tensor";
    LOG = c"aten::log", c"", "Tensor self" => "Tensor";
    SQRT = c"aten::sqrt", c"", "Tensor self" => "Tensor";
    RSQRT = c"aten::rsqrt", c"", "Tensor self" => "Tensor";
    ZERO_IN_PLACE = c"aten::zero_", c"", "Tensor(a!) self" => "Tensor(a!)";
    SUM = c"aten::sum", c"dim_IntList",
        "Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None" => "Tensor";
    MEAN = c"aten::mean", c"dim",
        "Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None" => "Tensor";
    TANH = c"aten::tanh", c"", "Tensor self" => "Tensor";
    SILU = c"aten::silu", c"", "Tensor self" => "Tensor";
    SILU_BACKWARD = c"aten::silu_backward", c"", "Tensor grad_output, Tensor self" => "Tensor";
    GELU = c"aten::gelu", c"", "Tensor self, *, str approximate='none'" => "Tensor";
    GELU_BACKWARD = c"aten::gelu_backward", c"",
        "Tensor grad_output, Tensor self, *, str approximate='none'" => "Tensor";
    LAYER_NORM = c"aten::native_layer_norm", c"",
        "Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps"
        => "(Tensor, Tensor, Tensor)";
    LAYER_NORM_BACKWARD = c"aten::native_layer_norm_backward", c"",
        "Tensor grad_out, Tensor input, SymInt[] normalized_shape, Tensor mean, Tensor rstd, Tensor? \
         weight, Tensor? bias, bool[3] output_mask"
        => "(Tensor, Tensor, Tensor)";
    INDEX_SELECT = c"aten::index_select", c"", "Tensor self, int dim, Tensor index" => "Tensor";
    EMBEDDING_BACKWARD = c"aten::embedding_dense_backward", c"",
        "Tensor grad_output, Tensor indices, SymInt num_weights, SymInt padding_idx, bool \
         scale_grad_by_freq"
        => "Tensor";
    CAT = c"aten::cat", c"", "Tensor[] tensors, int dim=0" => "Tensor";
    GATHER = c"aten::gather", c"", "Tensor self, int dim, Tensor index, *, bool sparse_grad=False"
    => "Tensor";
    SCATTER_ADD_IN_PLACE = c"aten::scatter_add_", c"",
        "Tensor(a!) self, int dim, Tensor index, Tensor src" => "Tensor(a!)";
    MASKED_FILL_IN_PLACE = c"aten::masked_fill_", c"Tensor",
        "Tensor(a!) self, Tensor mask, Tensor value" => "Tensor(a!)";
    LOG_SOFTMAX = c"aten::_log_softmax", c"", "Tensor self, int dim, bool half_to_float" => "Tensor";
    TOP_K = c"aten::topk", c"",
        "Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True"
        => "(Tensor values, Tensor indices)";
    ARGMAX = c"aten::argmax", c"", "Tensor self, int? dim=None, bool keepdim=False" => "Tensor";
    ADAMW = c"aten::_fused_adamw_", c"",
        "Tensor(a!)[] self, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, \
         Tensor(e!)[] max_exp_avg_sqs, Tensor[] state_steps, *, float lr, float beta1, float beta2, float \
         weight_decay, float eps, bool amsgrad, bool maximize, Tensor? grad_scale=None, Tensor? \
         found_inf=None"
        => "()";
    CPU_ATTENTION = c"aten::_scaled_dot_product_flash_attention_for_cpu", c"",
        "Tensor query, Tensor key, Tensor value, float dropout_p=0.0, bool is_causal=False, *, Tensor? \
         attn_mask=None, float? scale=None"
        => "(Tensor output, Tensor logsumexp)";
    CPU_ATTENTION_BACKWARD = c"aten::_scaled_dot_product_flash_attention_for_cpu_backward", c"",
        "Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, float \
         dropout_p, bool is_causal, *, Tensor? attn_mask=None, float? scale=None"
        => "(Tensor grad_query, Tensor grad_key, Tensor grad_value)";
    FLASH_ATTENTION = c"aten::_flash_attention_forward", c"",
        "Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, \
         SymInt max_k, float dropout_p, bool is_causal, bool return_debug_mask, *, float? scale=None, \
         SymInt? window_size_left=None, SymInt? window_size_right=None, Tensor? seqused_k=None, Tensor? \
         alibi_slopes=None"
        => "(Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, Tensor \
         debug_attn_mask)";
    FLASH_ATTENTION_BACKWARD = c"aten::_flash_attention_backward", c"",
        "Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, Tensor \
         cum_seq_q, Tensor cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, Tensor \
         rng_state, Tensor unused, *, float? scale=None, SymInt? window_size_left=None, SymInt? \
         window_size_right=None"
        => "(Tensor, Tensor, Tensor)";
    EFFICIENT_ATTENTION = c"aten::_efficient_attention_forward", c"",
        "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? cu_seqlens_q, Tensor? \
         cu_seqlens_k, SymInt? max_seqlen_q, SymInt? max_seqlen_k, float dropout_p, int custom_mask_type, \
         bool compute_log_sumexp=False, *, float? scale=None, Tensor? seqlen_k=None, int? \
         window_size=None"
        => "(Tensor output, Tensor logsumexp, Tensor philox_seed, Tensor philox_offset, SymInt \
         max_seqlen_batch_q, SymInt max_seqlen_batch_k)";
    EFFICIENT_ATTENTION_BACKWARD = c"aten::_efficient_attention_backward", c"",
        "Tensor grad_out_, Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor out, Tensor? \
         cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, Tensor logsumexp, \
         float dropout_p, Tensor philox_seed, Tensor philox_offset, int custom_mask_type, bool \
         bias_requires_grad, *, float? scale=None, int? num_splits_key=None, int? window_size=None, bool \
         shared_storage_dqdkdv=False"
        => "(Tensor, Tensor, Tensor, Tensor)";
}

/// What an operator returned, as so many tensors.
pub(crate) fn exactly<const N: usize>(
    operator: &Operator,
    results: Vec<Tensor>,
) -> Result<[Tensor; N], TorchError> {
    let n = results.len();
    results.try_into().map_err(|_| operator.refuse(format!("{n} tensors as result, expected {N}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::arithmetic::Adamw;
    use crate::device::Device;
    use crate::ffi::tests::{Kind, kinds, schema};
    use crate::ffi::{Argument, Dtype};
    use crate::ffi::{TorchLib, TorchPlaces};
    use Argument::{Bool, Float, Int, Tensor as Of};

    /// The libtorch that `TORCH_LIB` names; `None`, and a line that says so, where the variable is not set.
    pub(crate) fn torch() -> Option<&'static TorchLib> {
        static FOUND: OnceLock<Option<&'static TorchLib>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let value = std::env::var_os("TORCH_LIB")?;
            Some(TorchLib::find(&TorchPlaces::of_variable(Some(&value))).unwrap())
        });
        if found.is_none() {
            println!("skipped: TORCH_LIB is not set");
        }
        *found
    }

    fn tensor(torch: &'static TorchLib, values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_f32(torch, values, shape, Device::Cpu).unwrap()
    }

    /// Every schema is the one that the installed libtorch was built with; later versions may have added arguments
    /// behind.
    #[test]
    fn every_schema_is_the_installed_librarys() {
        let Some(torch) = torch() else { return };
        let library = std::fs::read(torch.folder().join("libtorch_cpu.so")).unwrap();
        // Registered schemas are strings of C; the linker keeps one that ends another one once.
        let texts: Vec<&str> = library
            .split(|&byte| byte == 0)
            .filter(|text| (8..2000).contains(&text.len()))
            .filter_map(|text| std::str::from_utf8(text).ok())
            .filter(|text| text.contains(") -> "))
            .collect();
        for operator in OPERATORS {
            let expected = schema(operator);
            let (name, _) = expected.split_once('(').unwrap();
            let (arguments, results) = expected.split_once(") -> ").unwrap();
            let registered: Vec<&str> =
                texts.iter().filter_map(|text| Some(&text[text.find(&format!("{name}("))?..])).collect();
            let is_same = |text: &&str| {
                text.split_once(") -> ").is_some_and(|(a, r)| {
                    r == results && (a == arguments || a.starts_with(&format!("{arguments}, ")))
                })
            };
            assert!(registered.iter().any(is_same), "{expected}\nis registered as {registered:?}");
        }
    }

    /// Operators for GPUs, called with tensors on the host: libtorch takes name, number and types of the arguments,
    /// and then says that they are for another device.
    #[test]
    fn operators_for_gpus_take_our_arguments() {
        let Some(torch) = torch() else { return };
        let one = tensor(torch, &[1.0], &[1, 1, 1]);
        for operator in
            [&FLASH_ATTENTION, &FLASH_ATTENTION_BACKWARD, &EFFICIENT_ATTENTION, &EFFICIENT_ATTENTION_BACKWARD]
        {
            let argument = |kind: Kind| match kind {
                Kind::Tensor | Kind::MaybeTensor => Of(&one),
                Kind::Int | Kind::MaybeInt => Int(1),
                Kind::Float | Kind::MaybeFloat => Float(0.0),
                Kind::Bool => Bool(false),
                Kind::Dtype => Argument::Dtype(Dtype::F32),
                other => panic!("{other:?}"),
            };
            let arguments: Vec<_> = kinds(operator).into_iter().map(argument).collect();
            let message = operator.call(torch, &arguments).unwrap_err().to_string();
            if torch.has_messages() {
                assert!(message.contains("'CPU' backend"), "{message}");
                assert_eq!(message.contains("CUDA: registered"), torch.why_no_cuda().is_none(), "{message}");
            }
        }
        let unknown = Operator::new(c"aten::no_such_operator", c"", "Tensor self", "Tensor");
        let message = unknown.call(torch, &[Of(&one)]).unwrap_err().to_string();
        assert!(message.contains("no_such_operator"), "{message}");
    }

    /// Arguments of every kind arrive as they were meant.
    #[test]
    fn arguments_and_results_are_those_of_the_formulas() {
        let Some(torch) = torch() else { return };
        let a = tensor(torch, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let values = |tensor: Tensor| tensor.to_f32().unwrap();
        assert_eq!(values(a.mm(&a.t().unwrap()).unwrap()), [14.0, 32.0, 32.0, 77.0]);
        assert_eq!(values(a.sum(1, false).unwrap()), [6.0, 15.0]);
        assert_eq!(values(a.mean_of_rows().unwrap()), [2.0, 5.0]);
        assert_eq!(a.reshape(&[6]).unwrap().sum_f64().unwrap(), 21.0);
        assert_eq!(values(Tensor::cat(&[&a, &a.scaled(2.0).unwrap()], 1).unwrap())[3..6], [2.0, 4.0, 6.0]);
        let [highest, columns] = a.top_k(2).unwrap();
        assert_eq!(
            (values(highest), columns.to_i64().unwrap()),
            (vec![3.0, 2.0, 6.0, 5.0], vec![2, 1, 2, 1])
        );
        assert_eq!(a.argmax().unwrap().to_i64().unwrap(), [2, 2]);
        let tangent = values(a.tanh().unwrap())[0];
        assert!((tangent - 0.761_594_2).abs() < 1e-6, "{tangent}");
        let gelu = values(a.rows(0..1).unwrap().gelu_tanh().unwrap())[0];
        assert!((gelu - 0.841_192).abs() < 1e-5, "{gelu}");
        // gelu(1) = normal distribution at 1.
        let gelu = values(a.rows(0..1).unwrap().gelu().unwrap())[0];
        assert!((gelu - 0.841_344_7).abs() < 1e-6, "{gelu}");
        let rows = Tensor::from_i64(torch, &[1, 1], &[2], Device::Cpu).unwrap();
        assert_eq!(values(a.scatter_rows(&rows, 3).unwrap()), [0.0, 0.0, 0.0, 5.0, 7.0, 9.0, 0.0, 0.0, 0.0]);
        assert_eq!(values(a.select(0, &rows).unwrap()), [4.0, 5.0, 6.0, 4.0, 5.0, 6.0]);
        let [value, gradient, first, second] =
            [[1.0; 3], [2.0; 3], [0.0; 3], [0.0; 3]].map(|v| tensor(torch, &v, &[3]));
        let step =
            Adamw { step: 1.0, learning_rate: 0.1, betas: [0.9, 0.999], weight_decay: 0.0, epsilon: 1e-8 };
        step.apply(&value, &gradient, [&first, &second]).unwrap();
        assert!(values(value).iter().all(|x| (x - 0.9).abs() < 1e-6));
        assert!(values(first).iter().all(|x| (x - 0.2).abs() < 1e-6));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let Some(torch) = torch() else { return };
        let a = tensor(torch, &[0.0; 6], &[2, 3]);
        let message = a.mm(&a).unwrap_err().to_string();
        assert_eq!(message, "`aten::mm`: [2, 3] times [2, 3]");
        assert!(matches!(a.rows(1..3), Err(TorchError::Arguments { operator: "narrow", .. })));
        assert!(matches!(a.reshape(&[5]), Err(TorchError::Arguments { operator: "reshape", .. })));
        assert!(a.expand(0, 4).is_err() && a.transpose(0, 2).is_err());
        assert!(a.add_product(&a, &a).is_err());
        assert!(Tensor::from_f32(torch, &[0.0; 5], &[2, 3], Device::Cpu).is_err());
        // What libtorch refuses is an error with its operator.
        let failed = a.mul(&tensor(torch, &[0.0; 4], &[4]).reshape(&[4]).unwrap()).unwrap_err();
        assert!(matches!(&failed, TorchError::Failed { operator: "aten::mul", .. }), "{failed}");
    }
}
