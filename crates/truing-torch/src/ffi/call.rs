//! Calling operators by name: the dispatcher's calling convention, and the check of arguments before it.
//!
//! The dispatcher takes a stack of 64-bit words, one for each argument of the operator's schema, and puts the
//! results in their place. Tensors and lists are handles that the call consumes; an optional is a pointer to a word
//! that libtorch frees, or 0. libtorch interprets the words by its own schema, without a check of types. So
//! each operator here carries its schema, and every call is checked against it.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use super::library::BUILD_VERSION;
use super::symbols::{Handle, List};
use super::{Dtype, Tensor, TorchLib};
use crate::error::TorchError;

/// Words of the stack. More than any operator has arguments: what a later version has added behind ours is read as 0,
/// which is `None`, false or 0.
const STACK: usize = 32;

/// An operator by its name, with its schema as PyTorch writes it.
#[derive(Debug)]
pub(crate) struct Operator {
    name: &'static CStr,
    overload: &'static CStr,
    arguments: &'static str,
    results: &'static str,
    signature: OnceLock<Signature>,
}

/// What a schema says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    arguments: Vec<Kind>,
    /// Tensors among the results; they come before any other.
    n_tensors: usize,
}

/// Types of arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tensor,
    MaybeTensor,
    Tensors,
    Int,
    MaybeInt,
    Ints,
    MaybeInts,
    Float,
    MaybeFloat,
    Bool,
    Bools,
    Dtype,
    MaybeDtype,
    Text,
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument<'a> {
    /// `Tensor`, or `Tensor?`.
    Tensor(&'a Tensor),
    /// `Tensor[]`.
    Tensors(&'a [&'a Tensor]),
    /// `int` or `SymInt`, or one of the two with `?`.
    Int(i64),
    /// `int[]` or `SymInt[]`, also with a size in the brackets, or one of these with `?`.
    Ints(&'a [i64]),
    /// `float`, or `float?`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// `bool[]`.
    Bools(&'a [bool]),
    /// `ScalarType`, or `ScalarType?`.
    Dtype(Dtype),
    /// `str`.
    Text(&'a str),
    /// Nothing, for any type with `?`.
    None,
}

impl Kind {
    /// The type of an argument of a schema; `None` where this module does not know it.
    fn of(schema: &str) -> Option<Self> {
        let mut name: String = schema.split(' ').next()?.replace("SymInt", "int");
        // `Tensor(a!)` says that the argument is changed, `int[1]` that a single number may stand for a list.
        for (open, close) in [('(', ')'), ('[', ']')] {
            if let (Some(start), Some(end)) = (name.find(open), name.find(close)) {
                name.replace_range(start + 1..end, "");
            }
        }
        Some(match name.replace("()", "").as_str() {
            "Tensor" => Self::Tensor,
            "Tensor?" => Self::MaybeTensor,
            "Tensor[]" => Self::Tensors,
            "int" => Self::Int,
            "int?" => Self::MaybeInt,
            "int[]" => Self::Ints,
            "int[]?" => Self::MaybeInts,
            "float" => Self::Float,
            "float?" => Self::MaybeFloat,
            "bool" => Self::Bool,
            "bool[]" => Self::Bools,
            "ScalarType" => Self::Dtype,
            "ScalarType?" => Self::MaybeDtype,
            "str" => Self::Text,
            _ => return None,
        })
    }

    /// Whether an argument may stand here.
    fn takes(self, argument: &Argument<'_>) -> bool {
        match argument {
            Argument::Tensor(_) => matches!(self, Self::Tensor | Self::MaybeTensor),
            Argument::Tensors(_) => self == Self::Tensors,
            Argument::Int(_) => matches!(self, Self::Int | Self::MaybeInt),
            Argument::Ints(_) => matches!(self, Self::Ints | Self::MaybeInts),
            Argument::Float(_) => matches!(self, Self::Float | Self::MaybeFloat),
            Argument::Bool(_) => self == Self::Bool,
            Argument::Bools(_) => self == Self::Bools,
            Argument::Dtype(_) => matches!(self, Self::Dtype | Self::MaybeDtype),
            Argument::Text(_) => self == Self::Text,
            Argument::None => self.is_optional(),
        }
    }

    fn is_optional(self) -> bool {
        matches!(
            self,
            Self::MaybeTensor | Self::MaybeInt | Self::MaybeInts | Self::MaybeFloat | Self::MaybeDtype
        )
    }
}

impl Signature {
    fn of(operator: &Operator) -> Result<Self, TorchError> {
        let unknown =
            |argument: &str| operator.refuse(format!("its schema has the unknown type `{argument}`"));
        let arguments = operator.arguments.split(", ").filter(|argument| *argument != "*");
        let kinds = arguments.map(|argument| Kind::of(argument).ok_or_else(|| unknown(argument)));
        let n_tensors = operator.results.matches("Tensor").count();
        Ok(Self { arguments: kinds.collect::<Result<_, _>>()?, n_tensors })
    }
}

impl Operator {
    /// `arguments` and `results` are the two sides of the schema, as libtorch's source has them.
    pub(crate) const fn new(
        name: &'static CStr,
        overload: &'static CStr,
        arguments: &'static str,
        results: &'static str,
    ) -> Self {
        Self { name, overload, arguments, results, signature: OnceLock::new() }
    }

    /// The name, for instance `aten::mm`.
    pub(crate) fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or("?")
    }

    /// Its own error.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> TorchError {
        TorchError::Arguments { operator: self.name(), reason: reason.into() }
    }

    fn signature(&self) -> Result<&Signature, TorchError> {
        if let Some(signature) = self.signature.get() {
            return Ok(signature);
        }
        let signature = Signature::of(self)?;
        Ok(self.signature.get_or_init(|| signature))
    }

    fn check(&self, arguments: &[Argument<'_>]) -> Result<&Signature, TorchError> {
        let signature = self.signature()?;
        let (expected, found) = (signature.arguments.len(), arguments.len());
        if expected != found || found > STACK {
            return Err(self.refuse(format!("{found} arguments, expected {expected}")));
        }
        for (idx, (kind, argument)) in signature.arguments.iter().zip(arguments).enumerate() {
            if !kind.takes(argument) {
                return Err(self.refuse(format!("argument {idx} is {argument:?}, expected {kind:?}")));
            }
        }
        Ok(signature)
    }

    /// Calls the operator. All arguments have to be given, defaults included. Returns its tensors.
    pub(crate) fn call(
        &self,
        torch: &'static TorchLib,
        arguments: &[Argument<'_>],
    ) -> Result<Vec<Tensor>, TorchError> {
        let signature = self.check(arguments)?;
        let mut stack = [0_u64; STACK];
        for ((word, kind), argument) in stack.iter_mut().zip(&signature.arguments).zip(arguments) {
            *word = encode(torch, *kind, argument)?;
        }
        // SAFETY: names end with a zero; the stack holds a word of the right kind for each argument of the schema,
        // and room for every result. Without gradients no operator keeps its arguments.
        let status = unsafe {
            (torch.symbols.aoti_torch_grad_mode_set_enabled)(false);
            (torch.symbols.torch_call_dispatcher)(
                self.name.as_ptr(),
                self.overload.as_ptr(),
                stack.as_mut_ptr(),
                BUILD_VERSION,
            )
        };
        torch.check(status, self.name())?;
        let results = stack[..signature.n_tensors].iter();
        Ok(results.map(|&word| Tensor::own(torch, word as Handle)).collect())
    }

    /// The same for operators with one tensor as result.
    pub(crate) fn call_one(
        &self,
        torch: &'static TorchLib,
        arguments: &[Argument<'_>],
    ) -> Result<Tensor, TorchError> {
        let results = self.call(torch, arguments)?;
        results.into_iter().next().ok_or_else(|| self.refuse("it has no tensor as result"))
    }
}

impl TorchLib {
    /// A failure of the function or operator that has just been called.
    pub(super) fn check(&self, status: i32, operator: &'static str) -> Result<(), TorchError> {
        match status {
            0 => Ok(()),
            _ => Err(TorchError::Failed { operator, message: self.optional.message() }),
        }
    }
}

/// The word for an argument.
fn encode(torch: &'static TorchLib, kind: Kind, argument: &Argument<'_>) -> Result<u64, TorchError> {
    let word = match argument {
        Argument::None => return Ok(0),
        Argument::Tensor(tensor) => tensor.new_handle()? as u64,
        Argument::Tensors(tensors) => {
            let words = tensors.iter().map(|tensor| Ok(tensor.new_handle()? as u64));
            list(torch, words.collect::<Result<Vec<u64>, TorchError>>()?)?
        }
        Argument::Int(number) => *number as u64,
        Argument::Ints(numbers) => list(torch, numbers.iter().map(|&number| number as u64).collect())?,
        Argument::Float(number) => number.to_bits(),
        Argument::Bool(value) => u64::from(*value),
        Argument::Bools(values) => list(torch, values.iter().map(|&value| u64::from(value)).collect())?,
        Argument::Dtype(dtype) => u64::from(torch.dtype_code(*dtype) as u32),
        Argument::Text(text) => string(torch, text)?,
    };
    Ok(if kind.is_optional() { boxed(torch, word) } else { word })
}

/// An optional: a word on C++'s heap, which the call deletes.
fn boxed(torch: &TorchLib, word: u64) -> u64 {
    // SAFETY: `operator new` returns room for the word, aligned for any type of this size.
    unsafe {
        let place = (torch.optional.operator_new)(size_of::<u64>()).cast::<u64>();
        place.write(word);
        place as u64
    }
}

fn list(torch: &TorchLib, words: Vec<u64>) -> Result<u64, TorchError> {
    let mut handle: List = std::ptr::null_mut();
    // SAFETY: the handle is written before it is used, and the call that the list is made for consumes it.
    unsafe {
        let status = (torch.symbols.torch_new_list_reserve_size)(words.len(), &raw mut handle);
        torch.check(status, "torch_new_list_reserve_size")?;
        for word in words {
            let status = (torch.symbols.torch_list_push_back)(handle, word);
            torch.check(status, "torch_list_push_back")?;
        }
    }
    Ok(handle as u64)
}

fn string(torch: &TorchLib, text: &str) -> Result<u64, TorchError> {
    let mut handle: *mut c_void = std::ptr::null_mut();
    // SAFETY: libtorch copies `len` bytes from the pointer.
    let status = unsafe {
        (torch.symbols.torch_new_string_handle)(text.as_ptr().cast::<c_char>(), text.len(), &raw mut handle)
    };
    torch.check(status, "torch_new_string_handle")?;
    Ok(handle as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The schema as a line of libtorch's own: what is registered under the name.
    pub(crate) fn schema(operator: &Operator) -> String {
        let name = operator.name().strip_prefix("aten::").unwrap();
        let overload = operator.overload.to_str().unwrap();
        let dot = if overload.is_empty() { "" } else { "." };
        format!("{name}{dot}{overload}({}) -> {}", operator.arguments, operator.results)
    }

    /// Kinds of the arguments.
    pub(crate) fn kinds(operator: &Operator) -> Vec<Kind> {
        operator.signature().unwrap().arguments.clone()
    }

    #[test]
    fn a_schema_says_what_may_stand_where() {
        let operator = Operator::new(
            c"aten::one",
            c"",
            "Tensor(a!) self, Tensor? weight, Tensor[] all, SymInt k, int[1]? dim, float eps=1e-5, bool[3] mask, *, \
             ScalarType? dtype=None, str how=\"none\", SymInt[] size",
            "(Tensor, Tensor, SymInt)",
        );
        let Signature { arguments, n_tensors } = operator.signature().unwrap();
        assert_eq!(*n_tensors, 2);
        assert_eq!(
            *arguments,
            [
                Kind::Tensor,
                Kind::MaybeTensor,
                Kind::Tensors,
                Kind::Int,
                Kind::MaybeInts,
                Kind::Float,
                Kind::Bools,
                Kind::MaybeDtype,
                Kind::Text,
                Kind::Ints
            ]
        );
        let unknown = Operator::new(c"aten::two", c"", "Scalar alpha", "()");
        assert!(unknown.signature().unwrap_err().to_string().contains("Scalar alpha"));
    }

    #[test]
    fn wrong_arguments_are_refused_before_libtorch_sees_them() {
        let operator = Operator::new(c"aten::three", c"", "int k, float? eps=None", "()");
        assert!(operator.check(&[Argument::Int(1), Argument::None]).is_ok());
        assert!(operator.check(&[Argument::Int(1), Argument::Float(0.5)]).is_ok());
        let message = |arguments: &[Argument<'_>]| operator.check(arguments).unwrap_err().to_string();
        assert_eq!(message(&[Argument::Int(1)]), "`aten::three`: 1 arguments, expected 2");
        let wrong = message(&[Argument::Float(1.0), Argument::None]);
        assert_eq!(wrong, "`aten::three`: argument 0 is Float(1.0), expected Int");
        assert!(message(&[Argument::None, Argument::None]).contains("expected Int"));
    }
}
