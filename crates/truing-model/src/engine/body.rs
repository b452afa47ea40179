//! The two kinds of model that an engine runs.

use super::EngineError;

/// A model without its parameters: the engine's own type for decoders, or for encoders.
#[derive(Debug)]
pub enum Body<D, E> {
    /// A decoder.
    Decoder(Box<D>),
    /// A text encoder.
    Encoder(Box<E>),
}

impl<D, E> Body<D, E> {
    /// The decoder.
    ///
    /// # Errors
    /// When it is an encoder.
    pub fn decoder(&self) -> Result<&D, EngineError> {
        match self {
            Self::Decoder(decoder) => Ok(decoder),
            Self::Encoder(_) => Err(EngineError::needs_decoder()),
        }
    }

    /// The decoder, to change it.
    ///
    /// # Errors
    /// When it is an encoder.
    pub fn decoder_mut(&mut self) -> Result<&mut D, EngineError> {
        match self {
            Self::Decoder(decoder) => Ok(decoder),
            Self::Encoder(_) => Err(EngineError::needs_decoder()),
        }
    }

    /// The encoder; `None` for a decoder.
    #[must_use]
    pub fn encoder(&self) -> Option<&E> {
        match self {
            Self::Decoder(_) => None,
            Self::Encoder(encoder) => Some(encoder),
        }
    }
}
