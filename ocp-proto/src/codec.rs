//! Frames as a `tokio_util` codec, for programs that speak OCP without [`Connection`].
//!
//! [`Connection`]: crate::Connection

use std::io;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::limits::WireLimits;
use crate::wire::{self, Frame, PAYLOAD_TAIL, SyntaxError};

/// Decodes and encodes [`Frame`]s.
#[derive(Debug)]
pub struct OcpCodec {
    decoder: wire::Decoder,
}

impl OcpCodec {
    /// A codec for the start of a connection.
    pub fn new(limits: WireLimits) -> Self {
        Self { decoder: wire::Decoder::new(limits) }
    }
}

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer sent something else than OCP.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
}

impl Decoder for OcpCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        Ok(self.decoder.decode(input)?)
    }
}

impl Encoder<Frame> for OcpCodec {
    type Error = CodecError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), CodecError> {
        match frame {
            Frame::Head(head) => {
                let mut encoder = wire::Encoder::new(out, head.name.as_str());
                head.anonymous.iter().for_each(|value| {
                    encoder.value(value);
                });
                head.named.iter().for_each(|(name, value)| {
                    encoder.named(name.as_str(), value);
                });
                match head.payload {
                    Some(size) => encoder.payload(size),
                    None => encoder.finish(),
                }
            }
            Frame::Chunk(octets) => out.extend_from_slice(&octets),
            Frame::End => out.extend_from_slice(PAYLOAD_TAIL),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_they_were_read() {
        let strict =
            "CS;\r\nDUM 1 0\r\nKept: {0 5}\r\nX: (a,\"2:b \")\r\n\r\n5:hello\r\n;\r\nPQ;\r\n";
        let mut codec = OcpCodec::new(WireLimits::default());
        let mut input = BytesMut::from(strict);
        let mut out = BytesMut::new();
        while let Some(frame) = codec.decode(&mut input).unwrap() {
            codec.encode(frame, &mut out).unwrap();
        }
        assert_eq!(out, strict);
    }

    #[test]
    fn a_syntax_error_says_where() {
        let mut codec = OcpCodec::new(WireLimits::default());
        let error = codec.decode(&mut BytesMut::from("CS ;\r\n")).unwrap_err();
        assert_eq!(error.to_string(), "octet 3 is ';': expected a value (RFC 4037 section 3.1)");
    }
}
