//! Messages that are held against a bound before they are taken apart.

use bytes::Buf;
use prost::{Message, decode_length_delimiter};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::status::status;
use crate::error::{Code, Error};

/// Most fields of a message, each item of a list being one. Items are bounded by the engine, which sees them
/// once they are taken apart: an empty one has two bytes on the wire, and fifty in memory.
const MAX_FIELDS: usize = 1 << 19;

/// protobuf with at most [`MAX_FIELDS`] fields a message. The generated code names it.
#[derive(Debug)]
pub(super) struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

/// See [`BoundedCodec`].
#[derive(Debug)]
pub(super) struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece.
        if exceeds(buf.chunk(), MAX_FIELDS) {
            let message = format!("the message has more than {MAX_FIELDS} fields; split it");
            return Err(status(Error::new(Code::TooManyItems, message)));
        }
        self.0.decode(buf)
    }
}

/// Where messages have lists within lists: the `inputs` of the Open Inference Protocol, and their `contents`. No
/// other field of that number has anything below it that a list would be taken for.
const WITHIN: [usize; 2] = [5, 5];

/// Whether a message has more than `limit` fields. What is no message is for the decoder to refuse.
fn exceeds(message: &[u8], limit: usize) -> bool {
    count(message, &WITHIN, limit).is_none()
}

/// How many more fields there may be after those of a message; none where they are too many.
fn count(mut message: &[u8], within: &[usize], mut left: usize) -> Option<usize> {
    while let Some((number, payload)) = next_field(&mut message) {
        left = left.checked_sub(1)?;
        if let Some((first, rest)) = within.split_first()
            && *first == number
        {
            left = count(payload, rest, left)?;
        }
    }
    Some(left)
}

/// A field's number, and its bytes where it has a length.
fn next_field<'m>(rest: &mut &'m [u8]) -> Option<(usize, &'m [u8])> {
    // A key and a length are numbers of the same kind.
    let mut number = || decode_length_delimiter(&mut *rest).ok();
    let key = number()?;
    let skipped = match key & 7 {
        0 => number().map(|_| 0)?,
        1 => 8,
        2 => number()?,
        5 => 4,
        // The ends of groups, which have no content of their own.
        _ => 0,
    };
    let (field, behind) = rest.split_at_checked(skipped)?;
    *rest = behind;
    Some((key >> 3, if key & 7 == 2 { field } else { &[] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::{
        oip_proto::{
            InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor,
        },
        proto,
    };

    #[test]
    fn fields_are_counted_up_to_the_bound() {
        let request = proto::EmbedRequest {
            model: "m".to_owned(),
            input: vec![proto::Input::default(); 5],
            dimensions: Some(300),
            ..Default::default()
        };
        let bytes = request.encode_to_vec();
        assert!(exceeds(&bytes, 6));
        assert!(!exceeds(&bytes, 7));
        let matrix = proto::Matrix { rows: 1, columns: 2, values: vec![1.0, 2.0] };
        assert!(!exceeds(&matrix.encode_to_vec(), 3));
        let bytes_contents = vec![Default::default(); 10];
        let contents = Some(InferTensorContents { bytes_contents, ..Default::default() });
        let inputs = vec![InferInputTensor { contents, ..Default::default() }];
        let bytes = ModelInferRequest { inputs, ..Default::default() }.encode_to_vec();
        assert!(exceeds(&bytes, 11));
        assert!(!exceeds(&bytes, 12));
        for damaged in
            [&b"\x0a\xff"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0d\x01"]
        {
            assert!(!exceeds(damaged, 0), "{damaged:?}");
        }
    }
}
