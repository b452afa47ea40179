//! Operators as functions of tensors, with arguments that fit.

use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Argument, Dtype, Operator, Tensor};
use crate::operators::{
    ADAMW, ARGMAX, CAT, DIV, EMBEDDING_BACKWARD, EXP, GATHER, GELU, GELU_BACKWARD, GREATER, INDEX_SELECT,
    LAYER_NORM, LAYER_NORM_BACKWARD, LOG, LOG_SOFTMAX, MASKED_FILL_IN_PLACE, MAXIMUM, MEAN, MM, MM_TO_DTYPE,
    MUL, NEG, RSQRT, SCATTER_ADD_IN_PLACE, SILU, SILU_BACKWARD, SQRT, SUM, TANH, TOP_K, ZERO_IN_PLACE,
    exactly,
};
use Argument::{Bool, Float, Int, Ints, None as Nothing, Tensor as Of, Tensors, Text};

impl Tensor {
    fn one(&self, operator: &Operator) -> Result<Self, TorchError> {
        operator.call_one(self.torch(), &[Of(self)])
    }

    fn two(&self, operator: &Operator, other: &Self) -> Result<Self, TorchError> {
        operator.call_one(self.torch(), &[Of(self), Of(other)])
    }

    /// The product of two matrices.
    pub(crate) fn mm(&self, other: &Self) -> Result<Self, TorchError> {
        match (&self.shape()[..], &other.shape()[..]) {
            ([_, k], [other_k, _]) if k == other_k => self.two(&MM, other),
            (one, other) => Err(MM.refuse(format!("{one:?} times {other:?}"))),
        }
    }

    /// The product of two matrices in single precision, also where they are in bfloat16.
    pub(crate) fn mm_f32(&self, other: &Self) -> Result<Self, TorchError> {
        match (self.dtype(), self.device()) {
            (Some(Dtype::F32), _) => self.mm(other),
            (_, Device::Cpu) => self.to(Dtype::F32)?.mm(&other.to(Dtype::F32)?),
            (_, Device::Cuda(_)) => {
                let arguments = [Of(self), Of(other), Argument::Dtype(Dtype::F32)];
                MM_TO_DTYPE.call_one(self.torch(), &arguments)
            }
        }
    }

    /// The product by element; shapes are expanded to one.
    pub(crate) fn mul(&self, other: &Self) -> Result<Self, TorchError> {
        self.two(&MUL, other)
    }

    /// Times a number.
    pub(crate) fn scaled(&self, factor: f32) -> Result<Self, TorchError> {
        self.mul(&Self::scalar(self.torch(), factor)?)
    }

    pub(crate) fn div(&self, other: &Self) -> Result<Self, TorchError> {
        self.two(&DIV, other)
    }

    pub(crate) fn add(&self, other: &Self) -> Result<Self, TorchError> {
        self.add_scaled(other, 1.0)
    }

    pub(crate) fn sub(&self, other: &Self) -> Result<Self, TorchError> {
        self.add_scaled(other, -1.0)
    }

    /// Whether elements are greater than another tensor's.
    pub(crate) fn greater(&self, other: &Self) -> Result<Self, TorchError> {
        self.two(&GREATER, other)
    }

    pub(crate) fn maximum(&self, other: &Self) -> Result<Self, TorchError> {
        self.two(&MAXIMUM, other)
    }

    pub(crate) fn neg(&self) -> Result<Self, TorchError> {
        self.one(&NEG)
    }

    pub(crate) fn exp(&self) -> Result<Self, TorchError> {
        self.one(&EXP)
    }

    pub(crate) fn log(&self) -> Result<Self, TorchError> {
        self.one(&LOG)
    }

    pub(crate) fn sqrt(&self) -> Result<Self, TorchError> {
        self.one(&SQRT)
    }

    pub(crate) fn rsqrt(&self) -> Result<Self, TorchError> {
        self.one(&RSQRT)
    }

    pub(crate) fn fill_zero(&self) -> Result<(), TorchError> {
        self.one(&ZERO_IN_PLACE).map(drop)
    }

    /// Zeros of the same format on the same device.
    pub(crate) fn zeros_like(&self, shape: &[usize]) -> Result<Self, TorchError> {
        let zeros = self.empty_like(shape)?;
        zeros.fill_zero()?;
        Ok(zeros)
    }

    /// The sum over an axis, which has then the length 1 or, without `keeps_axis`, is gone.
    pub(crate) fn sum(&self, axis: usize, keeps_axis: bool) -> Result<Self, TorchError> {
        let arguments = [Of(self), Ints(&[axis as i64]), Bool(keeps_axis), Nothing];
        SUM.call_one(self.torch(), &arguments)
    }

    /// The sum of all elements of a list in double precision.
    pub(crate) fn sum_f64(&self) -> Result<f64, TorchError> {
        let arguments = [Of(self), Ints(&[0]), Bool(false), Argument::Dtype(Dtype::F64)];
        let sum = SUM.call_one(self.torch(), &arguments)?.to_f64()?;
        sum.first().copied().ok_or_else(|| SUM.refuse("a sum without a value"))
    }

    /// The mean over the last axis, which keeps the length 1.
    pub(crate) fn mean_of_rows(&self) -> Result<Self, TorchError> {
        MEAN.call_one(self.torch(), &[Of(self), Ints(&[-1]), Bool(true), Nothing])
    }

    pub(crate) fn tanh(&self) -> Result<Self, TorchError> {
        self.one(&TANH)
    }

    pub(crate) fn silu(&self) -> Result<Self, TorchError> {
        self.one(&SILU)
    }

    /// The gradient at the input `self`, from that at the output.
    pub(crate) fn silu_backward(&self, d_output: &Self) -> Result<Self, TorchError> {
        d_output.two(&SILU_BACKWARD, self)
    }

    /// The exact GELU.
    pub(crate) fn gelu(&self) -> Result<Self, TorchError> {
        GELU.call_one(self.torch(), &[Of(self), Text("none")])
    }

    /// The gradient at the input `self`, from that at the output.
    pub(crate) fn gelu_backward(&self, d_output: &Self) -> Result<Self, TorchError> {
        GELU_BACKWARD.call_one(self.torch(), &[Of(d_output), Of(self), Text("none")])
    }

    /// The GELU by its hyperbolic tangent.
    pub(crate) fn gelu_tanh(&self) -> Result<Self, TorchError> {
        GELU.call_one(self.torch(), &[Of(self), Text("tanh")])
    }

    /// The gradient at the input `self`, from that at the output.
    pub(crate) fn gelu_tanh_backward(&self, d_output: &Self) -> Result<Self, TorchError> {
        GELU_BACKWARD.call_one(self.torch(), &[Of(d_output), Of(self), Text("tanh")])
    }

    /// Some rows of a matrix, or some places of another axis, by their numbers.
    pub(crate) fn select(&self, axis: usize, indices: &Self) -> Result<Self, TorchError> {
        INDEX_SELECT.call_one(self.torch(), &[Of(self), Int(axis as i64), Of(indices)])
    }

    /// Rows of zeros `[n_rows, width]`, to which every row of `self` is added at its number. A row's parts are added
    /// in a fixed order on every device.
    pub(crate) fn scatter_rows(&self, indices: &Self, n_rows: usize) -> Result<Self, TorchError> {
        let arguments = [Of(self), Of(indices), Int(n_rows as i64), Int(-1), Bool(false)];
        EMBEDDING_BACKWARD.call_one(self.torch(), &arguments)
    }

    /// Tensors one after another along an axis.
    pub(crate) fn cat(tensors: &[&Self], axis: usize) -> Result<Self, TorchError> {
        match tensors {
            [] => Err(CAT.refuse("no tensor")),
            [one] => one.contiguous(),
            [first, ..] => CAT.call_one(first.torch(), &[Tensors(tensors), Int(axis as i64)]),
        }
    }

    /// For each row, the columns with the given numbers `[n_rows, k]`.
    pub(crate) fn gather_columns(&self, columns: &Self) -> Result<Self, TorchError> {
        GATHER.call_one(self.torch(), &[Of(self), Int(1), Of(columns), Bool(false)])
    }

    /// Adds to the columns with the given numbers `[n_rows, k]`, in place.
    pub(crate) fn scatter_add_columns(&self, columns: &Self, values: &Self) -> Result<(), TorchError> {
        let arguments = [Of(self), Int(1), Of(columns), Of(values)];
        SCATTER_ADD_IN_PLACE.call_one(self.torch(), &arguments).map(drop)
    }

    /// Overwrites elements where the mask is true, in place.
    pub(crate) fn fill_where(&self, mask: &Self, value: f32) -> Result<(), TorchError> {
        let value = Self::scalar(self.torch(), value)?;
        MASKED_FILL_IN_PLACE.call_one(self.torch(), &[Of(self), Of(mask), Of(&value)]).map(drop)
    }

    /// The logarithm of the softmax of each row.
    pub(crate) fn log_softmax(&self) -> Result<Self, TorchError> {
        LOG_SOFTMAX.call_one(self.torch(), &[Of(self), Int(1), Bool(false)])
    }

    /// The `k` highest numbers of each row, falling, and their columns.
    pub(crate) fn top_k(&self, k: usize) -> Result<[Self; 2], TorchError> {
        let arguments = [Of(self), Int(k as i64), Int(1), Bool(true), Bool(true)];
        exactly(&TOP_K, TOP_K.call(self.torch(), &arguments)?)
    }

    /// The column of the highest number of each row.
    pub(crate) fn argmax(&self) -> Result<Self, TorchError> {
        ARGMAX.call_one(self.torch(), &[Of(self), Int(1), Bool(false)])
    }

    /// `(x - mean) / deviation * weight + bias` over the last axis; also the means and the inverse deviations.
    pub(crate) fn layer_norm(&self, weight: &Self, bias: &Self, eps: f32) -> Result<[Self; 3], TorchError> {
        let width = [self.size(1) as i64];
        let arguments = [Of(self), Ints(&width), Of(weight), Of(bias), Float(f64::from(eps))];
        exactly(&LAYER_NORM, LAYER_NORM.call(self.torch(), &arguments)?)
    }

    /// The gradients at the input `self`, the weight and the bias.
    pub(crate) fn layer_norm_backward(
        &self,
        d_output: &Self,
        mean: &Self,
        inverse_deviation: &Self,
        weight: &Self,
        bias: &Self,
    ) -> Result<[Self; 3], TorchError> {
        let width = [self.size(1) as i64];
        let arguments = [
            Of(d_output),
            Of(self),
            Ints(&width),
            Of(mean),
            Of(inverse_deviation),
            Of(weight),
            Of(bias),
            Argument::Bools(&[true; 3]),
        ];
        exactly(&LAYER_NORM_BACKWARD, LAYER_NORM_BACKWARD.call(self.torch(), &arguments)?)
    }
}

/// Numbers of an AdamW step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adamw {
    pub(crate) step: f32,
    pub(crate) learning_rate: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) weight_decay: f64,
    pub(crate) epsilon: f64,
}

impl Adamw {
    /// One step of one parameter, in place.
    pub(crate) fn apply(
        &self,
        value: &Tensor,
        gradient: &Tensor,
        moments: [&Tensor; 2],
    ) -> Result<(), TorchError> {
        let torch = value.torch();
        let step = Tensor::from_f32(torch, &[self.step], &[], value.device())?;
        let arguments = [
            Tensors(&[value]),
            Tensors(&[gradient]),
            Tensors(&[moments[0]]),
            Tensors(&[moments[1]]),
            Tensors(&[]),
            Tensors(&[&step]),
            Float(self.learning_rate),
            Float(self.betas[0]),
            Float(self.betas[1]),
            Float(self.weight_decay),
            Float(self.epsilon),
            Bool(false),
            Bool(false),
            Nothing,
            Nothing,
        ];
        ADAMW.call(torch, &arguments).map(drop)
    }
}
