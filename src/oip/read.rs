//! Converts tensors to items. It checks shape, type and values; the engine checks the limits of the request.

use bytes::{Buf, Bytes};

use super::{Elements, IMAGE, INPUT_IDS, MAX_RANK, PIXEL_VALUES, Sides, TEXT, Tensor};
use crate::{
    config::Limit,
    engine::{ImageInput, Input},
    error::{Code, Error},
    preprocess::{self, ImageSpec, TargetSize},
};

/// The two sides of a request.
///
/// * `max_items`: maximum number of items of a request. A tensor's elements are counted before they are parsed,
///   because an element of a few bytes on the wire can take a hundred in memory
///
/// # Errors
/// Names the tensor at fault.
pub(super) fn sides(
    tensors: Vec<Tensor>,
    image: &ImageSpec,
    max_items: usize,
) -> Result<Sides, Error> {
    let (mut pictures, mut texts) = (None, None);
    for tensor in tensors {
        let (name, items, side) = match &*tensor.name {
            IMAGE => (IMAGE, encoded(tensor, max_items)?, &mut pictures),
            PIXEL_VALUES => (PIXEL_VALUES, prepared(tensor, image, max_items)?, &mut pictures),
            TEXT => (TEXT, written(tensor, max_items)?, &mut texts),
            INPUT_IDS => (INPUT_IDS, ids(tensor, max_items)?, &mut texts),
            _ => {
                let known = [IMAGE, PIXEL_VALUES, TEXT, INPUT_IDS].join(", ");
                let message = format!("there is no such input; there are: {known}");
                return Err(Error::invalid("inputs", message));
            }
        };
        if side.replace((name, items)).is_some() {
            return Err(Error::invalid(name, "the images, or the texts, are given twice"));
        }
    }
    if pictures.is_none() && texts.is_none() {
        return Err(Error::invalid("inputs", "must not be empty"));
    }
    let (picture_name, pictures) = pictures.unwrap_or((IMAGE, Vec::new()));
    let (text_name, texts) = texts.unwrap_or((TEXT, Vec::new()));
    Ok(Sides { pictures, texts, picture_name, text_name })
}

/// The number of elements of a shape, and the size of each dimension.
///
/// # Errors
/// Fails for too many dimensions, a negative size, or too many elements.
fn sizes(name: &'static str, shape: &[i64]) -> Result<(usize, Vec<usize>), Error> {
    if shape.len() > MAX_RANK {
        let message = format!("its shape has {} dimensions, more than {MAX_RANK}", shape.len());
        return Err(Error::invalid(name, message));
    }
    let sizes = shape.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
    let product = sizes.as_ref().and_then(|sizes| {
        sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
    });
    match (sizes, product) {
        (Some(sizes), Some(product)) => Ok((product, sizes)),
        _ => Err(Error::invalid(name, format!("the shape {shape:?} has no elements"))),
    }
}

fn check_type(name: &'static str, given: &str, known: &[&str]) -> Result<(), Error> {
    if known.contains(&given) {
        return Ok(());
    }
    let known = known.join(" or ");
    Err(Error::invalid(name, format!("must be {known}, not `{given}`")))
}

fn check_count(name: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(name, format!("has {found} elements, its shape {expected}")))
}

/// Refuses a tensor of more items than a request may have.
fn check_items(name: &'static str, items: usize, max_items: usize) -> Result<(), Error> {
    if items <= max_items {
        return Ok(());
    }
    let limit = Limit::count(max_items, "limits.max_items");
    let message = format!("{items} items, more than the limit of {limit}; split the request");
    Err(Error::new(Code::TooManyItems, message).with_field(name))
}

/// The number of elements of a BYTES tensor with the shape `[n]` or `[n, 1]`.
fn count(name: &'static str, tensor: &Tensor, max_items: usize) -> Result<usize, Error> {
    check_type(name, &tensor.datatype, &["BYTES"])?;
    match sizes(name, &tensor.shape)?.1[..] {
        [count] | [count, 1] => check_items(name, count, max_items).map(|()| count),
        _ => Err(Error::invalid(name, format!("must be [n] or [n, 1], not {:?}", tensor.shape))),
    }
}

fn encoded(tensor: Tensor, max_items: usize) -> Result<Vec<Input>, Error> {
    let expected = count(IMAGE, &tensor, max_items)?;
    let items: Vec<_> = match tensor.elements {
        Elements::Raw(raw) => {
            split(IMAGE, raw, expected)?.into_iter().map(ImageInput::Encoded).collect()
        }
        Elements::Bytes(items) => items.into_iter().map(ImageInput::Encoded).collect(),
        Elements::Strings(items) => {
            let parse = |(index, text)| {
                let parsed = ImageInput::parse(text);
                parsed.map_err(|error| error.with_field(format!("{IMAGE}[{index}]")))
            };
            items.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?
        }
        Elements::Floats(_) | Elements::Integers(_) => return Err(not_bytes(IMAGE)),
    };
    check_count(IMAGE, items.len(), expected)?;
    Ok(items.into_iter().map(Input::Image).collect())
}

fn written(tensor: Tensor, max_items: usize) -> Result<Vec<Input>, Error> {
    let expected = count(TEXT, &tensor, max_items)?;
    let text = |(index, bytes): (usize, Bytes)| {
        String::from_utf8(bytes.into())
            .map_err(|_| Error::invalid(format!("{TEXT}[{index}]"), "is not UTF-8"))
    };
    let items: Vec<String> = match tensor.elements {
        Elements::Raw(raw) => {
            split(TEXT, raw, expected)?.into_iter().enumerate().map(text).collect()
        }
        Elements::Bytes(items) => items.into_iter().enumerate().map(text).collect(),
        Elements::Strings(items) => Ok(items.into_iter().map(|text| text.to_string()).collect()),
        Elements::Floats(_) | Elements::Integers(_) => Err(not_bytes(TEXT)),
    }?;
    check_count(TEXT, items.len(), expected)?;
    Ok(items.into_iter().map(Input::plain).collect())
}

fn not_bytes(name: &'static str) -> Error {
    Error::invalid(name, "elements of BYTES are not numbers")
}

fn not_numbers(name: &'static str) -> Error {
    Error::invalid(name, "the elements are not numbers")
}

/// Splits elements of BYTES, each of which follows its length in four bytes. The elements are slices of the
/// message.
///
/// It reads at most one element more than `expected`, which is enough to refuse the tensor.
fn split(name: &'static str, mut raw: Bytes, expected: usize) -> Result<Vec<Bytes>, Error> {
    let mut elements = Vec::new();
    while !raw.is_empty() && elements.len() <= expected {
        let length = raw.try_get_u32_le().ok().and_then(|length| usize::try_from(length).ok());
        match length {
            Some(length) if length <= raw.len() => elements.push(raw.split_to(length)),
            _ => return Err(Error::invalid(name, "an element ends before its length says so")),
        }
    }
    Ok(elements)
}

fn prepared(tensor: Tensor, spec: &ImageSpec, max_items: usize) -> Result<Vec<Input>, Error> {
    check_type(PIXEL_VALUES, &tensor.datatype, &["FP32"])?;
    let (elements, sizes) = sizes(PIXEL_VALUES, &tensor.shape)?;
    check_items(PIXEL_VALUES, sizes.first().copied().unwrap_or_default(), max_items)?;
    let size = picture_size(&sizes, spec).ok_or_else(|| {
        let wanted = match spec.size {
            TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
                format!("[n, 3, {height}, {width}]")
            }
            TargetSize::Patches { patch_size, max_num_patches } => format!(
                "[n, 3, height, width] of at most {max_num_patches} patches of {patch_size} pixels"
            ),
        };
        Error::invalid(PIXEL_VALUES, format!("must be {wanted}, not {:?}", tensor.shape))
    })?;
    let values = match tensor.elements {
        Elements::Floats(values) => values,
        Elements::Raw(raw) => {
            check_count(PIXEL_VALUES, raw.len() / 4, elements)?;
            raw.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        }
        _ => return Err(not_numbers(PIXEL_VALUES)),
    };
    check_count(PIXEL_VALUES, values.len(), elements)?;
    let picture = |(index, values): (usize, &[f32])| {
        let pixels = preprocess::from_normalized(values, size, spec).ok_or_else(|| {
            let message = "a value lies outside of what 8-bit pixels are normalised to";
            Error::invalid(format!("{PIXEL_VALUES}[{index}]"), message)
        })?;
        Ok(Input::Image(ImageInput::Pixels(pixels)))
    };
    let values_of_one = sizes[1..].iter().product::<usize>();
    values.chunks_exact(values_of_one).enumerate().map(picture).collect()
}

/// `[height, width]` of `[n, 3, height, width]`, if the model reads images of that size.
fn picture_size(sizes: &[usize], spec: &ImageSpec) -> Option<[u32; 2]> {
    let &[_, 3, height, width] = sizes else { return None };
    let [height, width] = [u32::try_from(height).ok()?, u32::try_from(width).ok()?];
    spec.size.accepts([height, width]).then_some([height, width])
}

fn ids(tensor: Tensor, max_items: usize) -> Result<Vec<Input>, Error> {
    check_type(INPUT_IDS, &tensor.datatype, &["INT32", "INT64"])?;
    let (elements, sizes) = sizes(INPUT_IDS, &tensor.shape)?;
    let [rows, length] = sizes[..] else {
        let message = format!("must be [n, length], not {:?}", tensor.shape);
        return Err(Error::invalid(INPUT_IDS, message));
    };
    check_items(INPUT_IDS, rows, max_items)?;
    let values: Vec<i64> = match tensor.elements {
        Elements::Integers(values) => values,
        // Numbers in JSON may be written as floats; fractions are refused.
        Elements::Floats(values) if values.iter().all(|value| value.fract() == 0.0) => {
            values.into_iter().map(|value| value as i64).collect()
        }
        Elements::Raw(raw) if tensor.datatype == "INT32" => {
            check_count(INPUT_IDS, raw.len() / 4, elements)?;
            raw.as_chunks::<4>().0.iter().map(|&id| i32::from_le_bytes(id).into()).collect()
        }
        Elements::Raw(raw) => {
            check_count(INPUT_IDS, raw.len() / 8, elements)?;
            raw.as_chunks::<8>().0.iter().map(|&id| i64::from_le_bytes(id)).collect()
        }
        _ => return Err(not_numbers(INPUT_IDS)),
    };
    check_count(INPUT_IDS, values.len(), elements)?;
    if length == 0 && rows > 0 {
        return Err(Error::invalid(INPUT_IDS, "a row must not be empty"));
    }
    let row = |(index, row): (usize, &[i64])| {
        let ids = row.iter().map(|&id| u32::try_from(id).ok()).collect::<Option<Vec<_>>>();
        let ids = ids.ok_or_else(|| {
            Error::invalid(
                format!("{INPUT_IDS}[{index}]"),
                "has an id that is not of the vocabulary",
            )
        })?;
        Ok(Input::TokenIds(ids))
    };
    values.chunks_exact(length.max(1)).enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64], elements: Elements) -> Tensor {
        Tensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            elements,
        }
    }

    #[test]
    fn elements_of_bytes_are_slices_behind_their_lengths() {
        let raw = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        assert_eq!(split(TEXT, raw, 3).expect("whole"), ["ab", "", "c"]);
        for cut in [&b"\x02\0\0"[..], b"\x02\0\0\0a", b"\xff\xff\xff\xff"] {
            let error = split(TEXT, Bytes::copy_from_slice(cut), 1).expect_err("cut");
            assert_eq!(error.field(), Some(TEXT));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let texts = |shape: &[i64]| {
            written(
                tensor(TEXT, "BYTES", shape, Elements::Strings(vec!["a".into(), "b".into()])),
                8,
            )
        };
        assert_eq!(texts(&[2]).expect("two").len(), 2);
        assert_eq!(texts(&[2, 1]).expect("two").len(), 2);
        for shape in
            [&[1][..], &[3], &[-1], &[2, 2], &[], &[i64::MAX, i64::MAX], &[1; MAX_RANK + 1]]
        {
            assert!(texts(shape).is_err(), "{shape:?}");
        }
        let long = texts(&vec![1; 1 << 20]).expect_err("too many");
        assert!(long.message().len() < 100, "{long}");
    }

    #[test]
    fn items_are_counted_before_they_are_taken_apart() {
        let empty = Bytes::from(vec![0; 4 << 20]);
        let count = 1 << 20;
        for read in [written, encoded] {
            for name in [TEXT, IMAGE] {
                let raw = Elements::Raw(empty.clone());
                let refused = read(tensor(name, "BYTES", &[count], raw), 1024).expect_err("many");
                assert_eq!(refused.code(), Code::TooManyItems);
                // The shape does not match the data.
                let raw = Elements::Raw(empty.clone());
                let refused = read(tensor(name, "BYTES", &[2], raw), 1024).expect_err("more");
                assert!(refused.message().starts_with("has 3 elements"), "{refused}");
            }
        }
        let one_each = tensor(INPUT_IDS, "INT32", &[count, 1], Elements::Raw(empty));
        assert_eq!(ids(one_each, 1024).expect_err("many").code(), Code::TooManyItems);
    }

    #[test]
    fn ids_come_in_three_ways() {
        let raw32: Bytes = [3_i32, 1].iter().flat_map(|id| id.to_le_bytes()).collect();
        let raw64: Bytes = [3_i64, 1].iter().flat_map(|id| id.to_le_bytes()).collect();
        for (datatype, elements) in [
            ("INT32", Elements::Raw(raw32)),
            ("INT64", Elements::Raw(raw64)),
            ("INT64", Elements::Floats(vec![3.0, 1.0])),
            ("INT32", Elements::Integers(vec![3, 1])),
        ] {
            let read = ids(tensor(INPUT_IDS, datatype, &[1, 2], elements), 1).expect(datatype);
            assert!(matches!(&read[..], [Input::TokenIds(ids)] if ids[..] == [3, 1]));
        }
        for elements in [Elements::Integers(vec![3, -1]), Elements::Floats(vec![0.5, 1.0])] {
            assert!(ids(tensor(INPUT_IDS, "INT64", &[1, 2], elements), 1).is_err());
        }
    }
}
