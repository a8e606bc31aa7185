use std::{io::Write as _, sync::Arc};

use arrow_array::{
    BinaryArray, Int64Array, ListArray, StringArray, StructArray, builder::ListBuilder,
    types::Float64Type,
};
use arrow_schema::{Fields, Schema};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

use super::{
    super::{formats::Whole, journal::Stamp, selection::Selection},
    *,
};

type Column = (&'static str, Arc<dyn Array>);

/// A file with these columns, in row groups of two rows.
fn file(folder: &Path, columns: &[Column], notes: WriterProperties) -> PathBuf {
    let path = folder.join("data.parquet");
    let field = |(name, array): &Column| Field::new(*name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).expect("columns");
    let properties = notes.into_builder().set_max_row_group_row_count(Some(2)).build();
    let out = File::create(&path).expect("made");
    let mut writer = ArrowWriter::try_new(out, schema, Some(properties)).expect("begins");
    writer.write(&batch).expect("written");
    writer.close().expect("whole");
    path
}

fn plain() -> WriterProperties {
    WriterProperties::default()
}

fn strings(values: &[Option<&str>]) -> Arc<dyn Array> {
    Arc::new(StringArray::from(values.to_vec()))
}

fn blobs(values: &[Option<&[u8]>]) -> Arc<dyn Array> {
    Arc::new(BinaryArray::from(values.to_vec()))
}

fn all(mut records: Records) -> Vec<Record> {
    let mut found = Vec::new();
    while let Some(record) = records.next().expect("reads") {
        found.push(record);
    }
    found
}

fn of_items(path: &Path, columns: &Selection) -> anyhow::Result<Records> {
    Records::of_items(path, columns, 4)
}

#[test]
fn images_are_bytes_or_paths_or_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let held = Some(Stored::Bytes(bytes::Bytes::from_static(b"abc")));
    let linked = Some(Stored::File(folder.path().join("a/b.png")));
    let (image, path) =
        (blobs(&[Some(b"abc"), None, None]), strings(&[None, Some("a/b.png"), None]));
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let both: Arc<dyn Array> =
        Arc::new(StructArray::new(fields, vec![Arc::clone(&image), Arc::clone(&path)], None));
    let ids: Arc<dyn Array> = Arc::new(Int64Array::from(vec![Some(-7), Some(8), None]));
    let columns = [("image", both), ("other", image), ("id", ids), ("where", path)];
    let data = file(folder.path(), &columns, plain());

    let records = of_items(&data, &Selection::default()).expect("found");
    assert_eq!(records.count(), 3);
    let found = all(records);
    let ids: Vec<_> = found.iter().map(|it| it.id.as_str()).collect();
    let third = format!("{}:3", data.display());
    assert_eq!(ids, ["-7", "8", &third]);
    assert_eq!([&found[0].image, &found[1].image, &found[2].image], [&held, &linked, &None]);
    assert_eq!([&found[0].fault, &found[1].fault], [&None, &None]);
    let fault = found[2].fault.as_deref().expect("null");
    assert!(fault.contains("the column `id` is null"), "{fault}");

    let column = |name: &str| Selection { image_column: Some(name.into()), ..Selection::default() };
    let found = all(of_items(&data, &column("where")).expect("found"));
    assert_eq!([&found[0].image, &found[1].image], [&None, &linked]);
    let found = all(of_items(&data, &column("other")).expect("found"));
    assert_eq!([&found[0].image, &found[1].image], [&held, &None]);
}

#[test]
fn a_column_that_is_not_there_is_told_with_those_that_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let columns = [
        ("one", blobs(&[Some(b"a")])),
        ("two", blobs(&[Some(b"b")])),
        ("count", Arc::new(Int64Array::from(vec![3])) as Arc<dyn Array>),
        ("words", strings(&[Some("a cat")])),
    ];
    let data = file(folder.path(), &columns, plain());
    let told = |columns: &Selection| {
        let Err(error) = of_items(&data, columns) else { panic!("it is read") };
        format!("{error:#}")
    };
    let several = told(&Selection::default());
    assert!(several.contains("--image-column") && several.contains("`one` (bytes)"), "{several}");
    let with = |image: Option<&str>, text: Option<&str>, id: Option<&str>| Selection {
        image_column: image.map(Into::into),
        text_column: text.map(Into::into),
        id_column: id.map(Into::into),
        ..Selection::default()
    };
    let cases = [
        (with(Some("nine"), None, None), "`words` (text)"),
        (with(Some("count"), None, None), "has integers, and images are"),
        (with(None, Some("count"), None), "has integers, and no texts"),
        (with(Some("one"), None, Some("none")), "there is no column `none`"),
    ];
    for (columns, reason) in cases {
        let said = told(&columns);
        assert!(said.contains(reason), "{said}");
    }
    let found = all(of_items(&data, &with(None, Some("words"), Some("count"))).expect("found"));
    assert_eq!((found[0].id.as_str(), found[0].text.as_deref()), ("3", Some("a cat")));

    let without = file(folder.path(), &[("n", Arc::new(Int64Array::from(vec![3])))], plain());
    let Err(error) = of_items(&without, &Selection::default()) else { panic!("it is read") };
    assert!(format!("{error:#}").contains("`n` (integers)"), "{error:#}");
}

#[test]
fn an_image_is_read_up_to_the_limit_and_a_byte_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = file(folder.path(), &[("image", blobs(&[Some(b"abcdefgh")]))], plain());
    let found = all(of_items(&data, &Selection::default()).expect("found"));
    assert_eq!(found[0].image, Some(Stored::Bytes(bytes::Bytes::from_static(b"abcde"))));
    assert_eq!(found[0].id, format!("{}:1", data.display()));
}

#[test]
fn classes_of_integers_have_the_names_that_the_file_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let columns = || {
        let labels: Arc<dyn Array> = Arc::new(Int64Array::from(vec![1, 0, 7]));
        [("image", blobs(&[Some(b"a"), Some(b"b"), Some(b"c")])), ("label", labels)]
    };
    let note = r#"{"info": {"features": {"label": {"names": ["cat", "hot_dog"], "_type": "ClassLabel"}}}}"#;
    let note = parquet::file::metadata::KeyValue::new("huggingface".to_owned(), note.to_owned());
    let notes = WriterProperties::builder().set_key_value_metadata(Some(vec![note])).build();
    let data = file(folder.path(), &columns(), notes);
    let (records, classes) = Records::of_pairs(&data, 4).expect("found");
    assert!(classes);
    let found = all(records);
    assert_eq!([&found[0].text, &found[1].text], [&Some("hot_dog".into()), &Some("cat".into())]);
    // A class without a name.
    assert!(found[2].text.is_none() && found[2].fault.is_some());

    let data = file(folder.path(), &columns(), plain());
    let Err(error) = Records::of_pairs(&data, 4) else { panic!("it is read") };
    assert!(format!("{error:#}").contains("does not say which classes"), "{error:#}");
}

#[test]
fn a_page_that_is_too_large_or_says_so_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = vec![7_u8; 100_000];
    let data = file(folder.path(), &[("image", blobs(&[Some(&image)]))], plain());
    let opened = Opened::open(&data).expect("opens");
    let column = opened.metadata.metadata().row_group(0).column(0);
    let error = pages::check(&opened.file, column, 99_999).expect_err("too large").to_string();
    assert!(error.contains("at most 99999 are read at once"), "{error}");
    assert_eq!(pages::check(&opened.file, column, 200_000).expect("it is small"), 1);

    // The first field that is a number is the type, then the sizes follow: 0x15, a number, 0x15, a number.
    let mut bytes = std::fs::read(&data).expect("there");
    let start =
        usize::try_from(column.dictionary_page_offset().unwrap_or(column.data_page_offset()))
            .expect("small");
    let size =
        start + bytes[start..].iter().skip(2).position(|&it| it == 0x15).expect("a size") + 3;
    // An even number stands for its half: here a million.
    bytes[size..size + 3].copy_from_slice(&[0xfe, 0xff, 0x7f]);
    std::fs::write(&data, bytes).expect("written");
    let opened = Opened::open(&data).expect("opens");
    let column = opened.metadata.metadata().row_group(0).column(0);
    let error = pages::check(&opened.file, column, 200_000).expect_err("it says so").to_string();
    assert!(error.contains("a page has 1048575 bytes"), "{error}");
}

#[test]
fn a_damaged_file_ends_in_an_error_or_in_all_of_its_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let columns = [
        ("image", blobs(&[Some(b"abc"), None, Some(b"abc"), Some(b"de"), Some(b"fghij")])),
        ("id", strings(&[Some("a"), Some("b"), Some("c"), Some("a"), Some("b")])),
    ];
    let data = file(folder.path(), &columns, plain());
    let whole = std::fs::read(&data).expect("there");
    let broken = folder.path().join("broken.parquet");
    let mut refused = 0;
    for place in 0..whole.len() {
        for bit in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[place] ^= bit;
            std::fs::write(&broken, bytes).expect("written");
            let read = || {
                let mut records = of_items(&broken, &Selection::default())?;
                let mut rows = 0;
                while records.next()?.is_some() {
                    rows += 1;
                }
                anyhow::Ok((rows, records.count()))
            };
            // The thread that reads inputs catches a panic.
            match std::panic::catch_unwind(read) {
                Ok(Ok((rows, _))) => assert_eq!(rows, 5, "byte {place} with {bit:#x}"),
                Ok(Err(_)) | Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", 2 * whole.len());
    for end in 0..whole.len() {
        std::fs::write(&broken, &whole[..end]).expect("written");
        assert!(of_items(&broken, &Selection::default()).is_err(), "cut after {end}");
    }
}

#[test]
fn vectors_of_others_are_read_and_strange_ones_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let lists = |rows: &[Option<&[Option<f64>]>]| -> Arc<dyn Array> {
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(
            rows.iter().map(|row| row.map(|row| row.to_vec())),
        ))
    };
    let ids = || strings(&[Some("a"), Some("b")]);
    let good = lists(&[Some(&[Some(0.5), Some(1.0)]), Some(&[Some(2.0), Some(-1.0)])]);
    let data = file(folder.path(), &[("id", ids()), ("vector", Arc::clone(&good))], plain());
    let index = read(&data).expect("reads");
    assert_eq!(
        (index.dim, index.vectors, index.ids),
        (2, vec![0.5, 1.0, 2.0, -1.0], vec!["a".into(), "b".into()])
    );
    assert_eq!(index.revision, None);
    let cases = [
        (vec![("key", ids()), ("v", Arc::clone(&good))], "there is no column `id`"),
        (vec![("id", ids()), ("v", ids())], "there is no column `embedding`"),
        (
            vec![("id", ids()), ("v", Arc::clone(&good)), ("w", good)],
            "there is no column `embedding`",
        ),
        (vec![("id", ids()), ("v", lists(&[Some(&[Some(1.0)]), None]))], "row 2 has no vector"),
        (vec![("id", ids()), ("v", lists(&[Some(&[Some(1.0)]), Some(&[])]))], "row 2 has 0 values"),
        (
            vec![("id", ids()), ("v", lists(&[Some(&[None]), Some(&[None])]))],
            "a value of the vector is null",
        ),
        (
            vec![
                ("id", strings(&[Some("a"), None])),
                ("v", lists(&[Some(&[Some(1.0)]), Some(&[Some(1.0)])])),
            ],
            "row 2 has no id",
        ),
    ];
    for (columns, reason) in cases {
        let error = read(&file(folder.path(), &columns, plain())).expect_err(reason);
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    }
}

#[test]
fn vectors_that_a_small_file_could_not_hold_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    // Ten million equal values, which a dictionary writes in some hundred bytes.
    let mut lists = ListBuilder::new(arrow_array::builder::Float32Builder::new());
    for _ in 0..10 {
        lists.values().append_slice(&vec![0.25; 1_000_000]);
        lists.append(true);
    }
    let ids: Arc<dyn Array> =
        Arc::new(StringArray::from_iter_values((0..10).map(|id| id.to_string())));
    let data =
        file(folder.path(), &[("id", ids), ("embedding", Arc::new(lists.finish()))], plain());
    assert!(std::fs::metadata(&data).expect("there").len() < 100_000);
    let error = format!("{:#}", read(&data).expect_err("too many"));
    assert!(error.contains("10000000 values, more than a file of its size holds"), "{error}");
}

#[test]
fn row_groups_of_many_rows_are_written_and_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v.parquet");
    let text = String::from;
    let stamp = Stamp {
        model: text("demo"),
        revision: text("r"),
        dtype: text("f32"),
        preprocessing_version: text("3"),
        dimensions: 3,
    };
    let mut writer = Writer::new(Whole::create(&path).expect("made"), &stamp).expect("begins");
    for row in 0..40_000_u16 {
        writer.put(row.to_string(), &[f32::from(row), 0.0, -1.0], row == 9).expect("written");
    }
    writer.put(text("x"), &[1.0], false).expect_err("another length");
    writer.finish().expect("whole");
    assert_eq!(Opened::open(&path).expect("opens").metadata.metadata().num_row_groups(), 3);
    let index = read(&path).expect("reads");
    assert_eq!((index.ids.len(), index.row(39_999)), (40_000, &[39_999.0, 0.0, -1.0][..]));

    let mut other = File::create(folder.path().join("other.parquet")).expect("made");
    other.write_all(b"PAR1 but not at the end").expect("written");
    let error = read(&folder.path().join("other.parquet")).expect_err("no Parquet");
    assert!(format!("{error:#}").contains("it is not a Parquet file"), "{error:#}");
}
