//! Compares sizes with transformers'; `tests/it/golden/llava.rs` compares the pixels.

use proptest::prelude::*;

use super::*;
use crate::checkpoint::fields::Document;

/// LLaVA-OneVision's sizes: 1 to 6 tiles of 384 pixels, row by row.
fn onevision() -> Pinpoints {
    let sizes: Vec<_> =
        (1..=6).flat_map(|rows| (1..=6).map(move |columns| [rows, columns])).collect();
    let sizes: Vec<_> = sizes.into_iter().map(|size| size.map(|tiles| tiles * 384)).collect();
    Pinpoints::new(&sizes, 384).expect("whole tiles")
}

#[test]
fn grids_and_sizes_are_those_of_transformers() {
    // Image, tiles, inner size, and the first rows and columns of padding.
    for (image, grid, inner, [top, left]) in [
        ([384, 384], [1, 1], [384, 384], [0, 0]),
        ([64, 64], [1, 1], [384, 384], [0, 0]),
        ([200, 300], [1, 1], [256, 384], [64, 0]),
        ([385, 385], [2, 2], [768, 768], [0, 0]),
        ([480, 640], [2, 2], [576, 768], [96, 0]),
        ([899, 1024], [3, 3], [1012, 1152], [70, 0]),
        ([1080, 1920], [3, 5], [1080, 1920], [36, 0]),
        ([3000, 4000], [5, 6], [1728, 2304], [96, 0]),
        ([100, 2000], [1, 6], [116, 2304], [134, 0]),
        ([2304, 2304], [6, 6], [2304, 2304], [0, 0]),
        // On their sides.
        ([640, 480], [2, 2], [768, 576], [0, 96]),
        ([2000, 100], [6, 1], [2304, 116], [0, 134]),
        // Sides of 47 pixels lose one where they are rounded down.
        ([47, 47], [1, 1], [384, 384], [0, 0]),
        // A very long and thin image keeps no pixel in any size.
        ([1, 100_000], [1, 1], [1, 384], [191, 0]),
    ] {
        let tiling = onevision().tiling(image);
        assert_eq!((tiling.grid, tiling.inner_size), (grid, inner), "{image:?}");
        assert_eq!(tiling.padding()[..2], [top, left], "{image:?}");
        assert_eq!(tiling.views() as u32, 1 + grid[0] * grid[1], "{image:?}");
    }
    assert_eq!(onevision().max_views(), 37);
}

#[test]
fn a_side_is_rounded_up_where_its_product_exceeds_a_whole_number() {
    let one = Pinpoints::new(&[[768, 768]], 384).expect("whole tiles");
    let tiling = one.tiling([2934, 2445]);
    assert_eq!((tiling.inner_size, tiling.padding()), ([768, 641], [0, 63, 0, 64]));
    let tiling = one.tiling([2445, 2934]);
    assert_eq!((tiling.inner_size, tiling.padding()), ([641, 768], [63, 0, 64, 0]));
}

#[test]
fn of_equally_good_sizes_the_first_is_chosen() {
    for (sizes, grid) in [([[8, 16], [16, 8]], [1, 2]), ([[16, 8], [8, 16]], [2, 1])] {
        let pinpoints = Pinpoints::new(&sizes, 8).expect("whole tiles");
        assert_eq!(pinpoints.tiling([30, 30]).grid, grid);
    }
}

#[test]
fn sizes_are_whole_tiles_and_not_too_many() {
    let refused =
        |sizes: &[[u32; 2]], side| Pinpoints::new(sizes, side).expect_err("refused").to_string();
    assert_eq!(refused(&[], 8), "0 sizes; from 1 to 128 are read");
    assert_eq!(refused(&[[8, 8]; 129], 8), "129 sizes; from 1 to 128 are read");
    for size in
        [[8, 12], [0, 8], [8, 0], [7, 8], [8 * 65, 8], [8 * 9, 8 * 8], [u32::MAX - 7, u32::MAX - 7]]
    {
        let message = refused(&[[8, 8], size], 8);
        assert!(
            message.starts_with(&format!("[{}, {}] is no size in whole tiles", size[0], size[1])),
            "{message}"
        );
    }
    assert!(refused(&[[8, 8]], 0).contains("whole tiles"));
    assert!(Pinpoints::new(&[[64, 64]; 128], 8).is_ok());
}

#[test]
fn a_file_gives_a_list_of_sizes() {
    let read = |json: &str| {
        let document = Document::parse(json.as_bytes()).expect("JSON");
        Pinpoints::read(&document.fields(), 8).map_err(|error| error.to_string())
    };
    assert_eq!(read("{}"), Ok(None));
    let sizes =
        read(r#"{"image_grid_pinpoints": [[8, 16], [16, 8]]}"#).expect("a list").expect("there");
    assert_eq!(sizes.sizes(), [[8, 16], [16, 8]]);
    for json in ["[[8]]", "\"(1x1),(2x2)\"", "[8, 16]", "[[8, -8]]", "[[8, 8.5]]"] {
        let error = read(&format!(r#"{{"image_grid_pinpoints": {json}}}"#)).expect_err(json);
        assert!(error.ends_with("a list of heights and widths is read"), "{error}");
    }
    let error = read(r#"{"image_grid_pinpoints": [[8, 9]]}"#).expect_err("no whole tile");
    assert!(error.starts_with("`image_grid_pinpoints`: [8, 9] is no size"), "{error}");
}

#[test]
fn views_are_cut_row_by_row_with_black_around() {
    // 3 x 5 pixels in 2 x 3 tiles of 2 x 2: one row of padding at the bottom, one column on the right.
    let tiling = Tiling { image_size: [30, 50], side: 2, grid: [2, 3], inner_size: [3, 5] };
    assert_eq!(tiling.padding(), [0, 0, 1, 1]);
    let pixels = |height: u32, width: u32, first: u8| {
        let data: Vec<u8> = (0..height * width).flat_map(|at| [first + at as u8; 3]).collect();
        Pixels { height, width, data: data.into() }
    };
    let stacked = tiling.stack(&pixels(2, 2, 100), &pixels(3, 5, 1));
    assert_eq!([stacked.height, stacked.width], tiling.stacked_size());
    let views = tiling.split(&stacked);
    let reds = |view: &Pixels| view.data.iter().step_by(3).copied().collect::<Vec<_>>();
    let found: Vec<_> = views.iter().map(reds).collect();
    let expected: [[u8; 4]; 7] = [
        [100, 101, 102, 103],
        [1, 2, 6, 7],
        [3, 4, 8, 9],
        [5, 0, 10, 0],
        [11, 12, 0, 0],
        [13, 14, 0, 0],
        [15, 0, 0, 0],
    ];
    assert_eq!(found, expected);
    // The padding of the first side is odd too: 1 of 3 is in front.
    let narrow = Tiling { image_size: [10, 10], side: 4, grid: [1, 1], inner_size: [1, 2] };
    assert_eq!(narrow.padding(), [1, 1, 2, 1]);
    let views = narrow.split(&narrow.stack(&pixels(4, 4, 0), &pixels(1, 2, 7)));
    assert_eq!(reds(&views[1]), [0, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

proptest! {
    #[test]
    fn an_image_fits_whatever_its_size(height in 1..1_000_000_u32, width in 1..1_000_000_u32) {
        let pinpoints = onevision();
        let tiling = pinpoints.tiling([height, width]);
        prop_assert!(tiling.views() <= pinpoints.max_views());
        let [top, left, bottom, right] = tiling.padding();
        prop_assert!(bottom - top <= 1 && right - left <= 1);
        let [rows, columns] = tiling.inner_size;
        prop_assert!(rows >= 1 && columns >= 1);
        prop_assert_eq!([top + rows + bottom, left + columns + right], tiling.grid.map(|tiles| tiles * 384));
        prop_assert!(top == 0 || left == 0);
    }
}
