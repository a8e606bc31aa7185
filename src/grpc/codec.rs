//! Checks messages against a limit before they are decoded.

use std::any::TypeId;

use bytes::Buf;
use prost::{Message, decode_length_delimiter};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::{oip_proto, proto, receive, status::status};
use crate::error::{Code, Error};

/// Maximum number of fields of a message. Each item of a list counts as a field, and so does each integer. The
/// engine limits items, but only after decoding.
const MAX_FIELDS: usize = 1 << 19;
/// Maximum number of bytes that a decoded field takes in addition to its own: an empty item has two bytes on
/// the wire, and a growing list has capacity for twice its items. A test measures this for every method.
const FIELD_BYTES: usize = 640;
/// Maximum number of bytes that a decoded integer takes.
const NUMBER_BYTES: usize = 24;

/// Protobuf with at most [`MAX_FIELDS`] fields per message. The generated code refers to this name.
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

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The bytes of a message are contiguous.
        let Some(found) = measured(buf.chunk(), lists::<U>(), MAX_FIELDS) else {
            let message =
                format!("the message has more than {MAX_FIELDS} fields and numbers; split it");
            return Err(status(Error::new(Code::TooManyItems, message)));
        };
        receive::count(found.decoded_bytes())?;
        self.0.decode(buf)
    }
}

/// The places of lists in a message, other than its own repeated fields.
#[derive(Debug)]
struct Lists {
    /// Fields that are messages and contain lists.
    within: &'static [(usize, Self)],
    /// Fields that are packed lists of integers: an integer takes a byte on the wire and up to eight in memory.
    packed: &'static [usize],
}

/// There are no lists below the message's own fields, as in most messages.
const FLAT: Lists = Lists { within: &[], packed: &[] };

/// `scores` of a [`proto::SimilarityRequest`].
const SIMILARITY: Lists = Lists { within: &[], packed: &[6] };

/// A [`oip_proto::ModelInferRequest`]: its `inputs` with shape, parameters and contents, its `outputs` with
/// parameters.
const INFER: Lists = Lists {
    within: &[
        (5, Lists { within: &[(5, Lists { within: &[], packed: &[2, 3, 4, 5] })], packed: &[3] }),
        (6, FLAT),
    ],
    packed: &[],
};

/// The places of lists in messages of a type.
fn lists<T: 'static>() -> &'static Lists {
    let of = TypeId::of::<T>();
    if of == TypeId::of::<oip_proto::ModelInferRequest>() {
        &INFER
    } else if of == TypeId::of::<proto::SimilarityRequest>() {
        &SIMILARITY
    } else {
        &FLAT
    }
}

/// Counts of a message's contents.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    fields: usize,
    /// Integers in packed lists.
    numbers: usize,
}

impl Found {
    /// Maximum number of bytes that the decoded message takes, in addition to those of the message.
    fn decoded_bytes(self) -> usize {
        self.fields * FIELD_BYTES + self.numbers * NUMBER_BYTES
    }
}

/// Counts a message's contents; none if there are more than `limit`. The decoder refuses bytes that are not a
/// message.
fn measured(message: &[u8], lists: &Lists, limit: usize) -> Option<Found> {
    let mut found = Found::default();
    measure(message, lists, limit, &mut found)?;
    Some(found)
}

/// Adds a message's contents to `found`; none if there are too many.
fn measure(mut message: &[u8], lists: &Lists, limit: usize, found: &mut Found) -> Option<()> {
    while let Some((number, payload)) = next_field(&mut message) {
        found.fields += 1;
        if lists.packed.contains(&number) {
            // The last byte of a number has its highest bit clear.
            found.numbers += payload.iter().filter(|byte| byte.is_ascii()).count();
        }
        if found.fields + found.numbers > limit {
            return None;
        }
        if let Some((_, lists)) = lists.within.iter().find(|(field, _)| *field == number) {
            measure(payload, lists, limit, found)?;
        }
    }
    Some(())
}

/// A field's number, and its bytes if it has a length.
fn next_field<'m>(rest: &mut &'m [u8]) -> Option<(usize, &'m [u8])> {
    // A key and a length are numbers of the same kind.
    let mut number = || decode_length_delimiter(&mut *rest).ok();
    let key = number()?;
    let skipped = match key & 7 {
        0 => number().map(|_| 0)?,
        1 => 8,
        2 => number()?,
        5 => 4,
        // Ends of groups have no content.
        _ => 0,
    };
    let (field, behind) = rest.split_at_checked(skipped)?;
    *rest = behind;
    Some((key >> 3, if key & 7 == 2 { field } else { &[] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::oip_proto::{
        InferParameter, InferTensorContents, ModelInferRequest,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    };

    /// Checks that a message has this many fields.
    fn check<T: Message + std::fmt::Debug + 'static>(message: &T, fields: usize) {
        let bytes = message.encode_to_vec();
        assert!(measured(&bytes, lists::<T>(), fields - 1).is_none(), "{message:?}");
        assert!(measured(&bytes, lists::<T>(), fields).is_some(), "{message:?}");
    }

    fn infer(input: InferInputTensor) -> ModelInferRequest {
        ModelInferRequest { inputs: vec![input], ..Default::default() }
    }

    #[test]
    fn fields_are_counted_up_to_the_bound() {
        let request = proto::EmbedRequest {
            model: "m".to_owned(),
            input: vec![proto::Input::default(); 5],
            dimensions: Some(300),
            ..Default::default()
        };
        check(&request, 7);
        check(&proto::Matrix { rows: 1, columns: 2, values: vec![1.0, 2.0] }, 3);
        for damaged in
            [&b"\x0a\xff"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0d\x01"]
        {
            assert!(measured(damaged, &FLAT, 0).is_some(), "{damaged:?}");
        }
    }

    #[test]
    fn lists_within_lists_count() {
        let contents = |contents| infer(InferInputTensor { contents, ..Default::default() });
        let of_bytes = InferTensorContents {
            bytes_contents: vec![Default::default(); 10],
            ..Default::default()
        };
        check(&contents(Some(of_bytes)), 12);
        let parameters = || ["a", "b"].map(|key| (key.to_owned(), InferParameter::default()));
        let parameters = || parameters().into_iter().collect();
        check(&infer(InferInputTensor { parameters: parameters(), ..Default::default() }), 3);
        let output = InferRequestedOutputTensor { parameters: parameters(), ..Default::default() };
        check(&ModelInferRequest { outputs: vec![output], ..Default::default() }, 3);
    }

    #[test]
    fn whole_numbers_count_and_floats_do_not() {
        check(&infer(InferInputTensor { shape: vec![1, 300, -1], ..Default::default() }), 5);
        let contents = |contents: InferTensorContents| {
            infer(InferInputTensor { contents: Some(contents), ..Default::default() })
        };
        let numbers = InferTensorContents {
            int_contents: vec![1; 4],
            int64_contents: vec![1 << 40; 4],
            ..Default::default()
        };
        check(&contents(numbers), 12);
        let fp32_contents = vec![1.0; 100];
        check(&contents(InferTensorContents { fp32_contents, ..Default::default() }), 3);
        let scores = vec![1; 7];
        check(&proto::SimilarityRequest { scores, ..Default::default() }, 8);
    }
}
