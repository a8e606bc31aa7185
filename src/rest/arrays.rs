//! Headers of binary responses: numpy's format and safetensors. The values that follow are row-major and
//! little-endian.

use std::collections::HashMap;

use bytes::Bytes;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use crate::{embedding::Element, error::Error};

/// Alignment of the data in bytes. numpy's format needs it, and safetensors is read faster with it.
const ALIGNMENT: usize = 64;

/// The header of a file in numpy's format (version 1.0) with one array.
pub(super) fn npy_head(element: Element, shape: &[usize]) -> Bytes {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let descr = match element {
        Element::F32 => "<f4",
        Element::F16 => "<f2",
        Element::I8 => "|i1",
        Element::U8 => "|u1",
    };
    let mut sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    // A tuple with one element is written `(3,)`.
    let cut = if shape.len() == 1 { 1 } else { 2 };
    sides.truncate(sides.len().saturating_sub(cut));
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
    // The header is padded with spaces and ends with a line break.
    let length = MAGIC.len() + 2 + dict.len() + 1;
    dict.extend(std::iter::repeat_n(' ', length.next_multiple_of(ALIGNMENT) - length));
    dict.push('\n');
    let size = u16::try_from(dict.len()).unwrap_or(u16::MAX);
    [MAGIC, &size.to_le_bytes(), dict.as_bytes()].concat().into()
}

/// The header of a safetensors file whose tensors follow in this order.
///
/// # Errors
/// Fails if a tensor's size overflows, which cannot happen for a response within the limits.
pub(super) fn safetensors_head(
    element: Element,
    tensors: Vec<(String, Vec<usize>)>,
    metadata: HashMap<String, String>,
) -> Result<Bytes, Error> {
    let dtype = match element {
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::I8 => Dtype::I8,
        Element::U8 => Dtype::U8,
    };
    let mut end = 0;
    let infos = tensors.into_iter().map(|(name, shape)| {
        let start = end;
        end += shape.iter().product::<usize>() * element.bytes();
        (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let head = Metadata::new(Some(metadata), infos.collect()).map_err(Error::internal)?;
    let mut head = serde_json::to_vec(&head).map_err(Error::internal)?;
    let padded = (head.len() + 8).next_multiple_of(ALIGNMENT) - 8;
    head.resize(padded, b' ');
    Ok([&(head.len() as u64).to_le_bytes()[..], &head].concat().into())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn npy_heads_are_aligned_and_say_the_shape() {
        for (shape, said) in [
            (&[2, 3][..], "'shape': (2, 3), }"),
            (&[5], "'shape': (5,), }"),
            (&[1, 729, 1152], "'shape': (1, 729, 1152), }"),
        ] {
            let head = npy_head(Element::F16, shape);
            assert!(head.starts_with(b"\x93NUMPY\x01\x00") && head.ends_with(b" \n"));
            assert_eq!(head.len() % ALIGNMENT, 0);
            assert_eq!(usize::from(u16::from_le_bytes([head[8], head[9]])), head.len() - 10);
            let text = String::from_utf8_lossy(&head[10..]);
            assert!(text.starts_with("{'descr': '<f2', 'fortran_order': False, "), "{text}");
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn safetensors_heads_are_read_by_the_library() {
        let tensors = vec![("a".to_owned(), vec![2, 3]), ("b".to_owned(), vec![1])];
        let metadata = HashMap::from([("model".to_owned(), "m".to_owned())]);
        let head = safetensors_head(Element::I8, tensors, metadata).expect("small");
        assert_eq!(head.len() % ALIGNMENT, 0);
        let file = [&head[..], &[1, 2, 3, 4, 5, 6, 7]].concat();
        let read = SafeTensors::deserialize(&file).expect("valid");
        assert_eq!(read.tensor("a").expect("a").data(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read.tensor("b").expect("b").data(), [7]);
    }
}
