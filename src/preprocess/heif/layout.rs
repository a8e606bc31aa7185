//! Reads which coded images make up the image of a HEIF file, where it is cropped and how it is turned.

use heifer_isobmff::{
    BoxIter, HeifFile, Item, ItemId,
    boxes::{ColorInfo, Property},
};
use image::metadata::Orientation;

use super::{Fault, Meaning};

/// Maximum number of bytes of the box that describes the file. A photograph of 200 million pixels in tiles
/// needs about 50,000, and the reader's time grows with the square.
const MAX_META_BYTES: usize = 256 << 10;
/// Maximum number of items in that box.
const MAX_ITEMS: u32 = 4096;
/// Maximum number of coded images that make up an image.
const MAX_TILES: usize = 1024;

/// The coding of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Coding {
    #[cfg(feature = "avif")]
    Av1,
    #[cfg(feature = "heic")]
    Hevc,
}

impl Coding {
    /// The name of files with this coding.
    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "avif")]
            Self::Av1 => "AVIF",
            #[cfg(feature = "heic")]
            Self::Hevc => "HEIC",
        }
    }

    fn is_av1(self) -> bool {
        #[cfg(feature = "avif")]
        return self == Self::Av1;
        #[cfg(not(feature = "avif"))]
        return false;
    }
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u32,
    pub(super) height: u32,
}

/// An image is coded in whole blocks with at most this many pixels per side: 64 in HEVC, 128 in AV1.
const BLOCK: u64 = 128;

impl Size {
    /// Pixels of an image.
    #[cfg_attr(not(feature = "avif"), expect(dead_code, reason = "AV1's alone"))]
    pub(super) fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Pixels of the blocks in which an image is coded.
    pub(super) fn coded_pixels(self) -> u64 {
        let [width, height] =
            [self.width, self.height].map(|side| u64::from(side).next_multiple_of(BLOCK));
        width.saturating_mul(height)
    }
}

/// A part of a canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// Coded images of one size, in rows.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) coding: Coding,
    pub(super) tiles: Vec<ItemId>,
    pub(super) columns: u32,
    /// The size of each coded image.
    pub(super) tile: Size,
    /// The size of all coded images together, without the parts outside the image.
    size: Size,
    /// The colours that the container declares; if it declares none, those of the stream count.
    pub(super) meaning: Option<Meaning>,
}

/// An image.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) colour: Plan,
    pub(super) alpha: Option<Plan>,
    /// Whether colours were multiplied by alpha.
    pub(super) premultiplied: bool,
    /// The part of the canvas that is shown.
    pub(super) area: Area,
    /// How the shown part is turned.
    pub(super) orientation: Orientation,
}

/// Limits the input of the box reader, whose time grows with the square of the number of items and properties.
pub(super) fn check_boxes(bytes: &[u8]) -> Result<(), Fault> {
    let find = |bytes, name: &[u8; 4]| {
        BoxIter::new(bytes)
            .find_map(|found| match found {
                Ok(found) => (found.header.box_type.0 == *name).then_some(Ok(found.content)),
                Err(error) => Some(Err(Fault::from(error))),
            })
            .transpose()
    };
    let Some(meta) = find(bytes, b"meta")? else {
        return Err(Fault::Refused("it has no still image"));
    };
    let too_much = Fault::Refused("it describes too many images");
    if meta.len() > MAX_META_BYTES {
        return Err(too_much);
    }
    let items = find(meta.get(4..).ok_or(Fault::EndsEarly)?, b"iinf")?.unwrap_or_default();
    // A version, and a count of two bytes or of four.
    let count = match items {
        [0, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]).into(),
        [_, _, _, _, count @ ..] => {
            count.first_chunk().map_or(0, |&count| u32::from_be_bytes(count))
        }
        _ => 0,
    };
    if count > MAX_ITEMS { Err(too_much) } else { Ok(()) }
}

impl Layout {
    /// The plans of the colours and of alpha.
    pub(super) fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.colour).chain(&self.alpha)
    }

    /// The layout of the primary image.
    pub(super) fn of(file: &HeifFile<'_>) -> Result<Self, Fault> {
        let primary = file.primary_item()?;
        let colour = Plan::of(file, primary)?;
        let (area, orientation) = shown(file, primary, colour.size)?;
        let mut alpha = None;
        let mut premultiplied = false;
        for id in file.referencing_items(primary.id, b"auxl") {
            let item = file.item(id)?;
            if !is_alpha(file, id)? {
                continue;
            }
            let plan = Plan::of(file, item)?;
            if plan.size != colour.size {
                return Err(Fault::Refused("its transparency has another size than its colours"));
            }
            // libavif turns only the colours in the file, and means both.
            let turned = shown(file, item, plan.size)?;
            let left = plan.coding.is_av1() && turned == shown_whole(plan.size);
            if turned != (area, orientation) && !left {
                return Err(Fault::Refused("its transparency is turned in another way"));
            }
            premultiplied = file.referenced_items(primary.id, b"prem").contains(&id);
            alpha = Some(plan);
            break;
        }
        // Tiles with their own alpha would be drawn without it, so they are refused.
        let tiles = colour.tiles.iter().filter(|&&tile| tile != primary.id);
        for &tile in tiles {
            for id in file.referencing_items(tile, b"auxl") {
                if is_alpha(file, id)? {
                    return Err(Fault::Refused("its tiles have transparency of their own"));
                }
            }
        }
        Ok(Self { colour, alpha, premultiplied, area, orientation })
    }
}

impl Plan {
    fn of(file: &HeifFile<'_>, item: &Item) -> Result<Self, Fault> {
        check_essential(file, item)?;
        if item.item_type.0 != *b"grid" {
            let size = size_of(file, item.id)?;
            let meaning = meaning(file, item.id)?;
            let coding = coding(item)?;
            return Ok(Self {
                coding,
                tiles: vec![item.id],
                columns: 1,
                tile: size,
                size,
                meaning,
            });
        }
        let grid = file.grid(item.id)?;
        let tiles = file.referenced_items(item.id, b"dimg").to_vec();
        let (columns, rows) = (u32::from(grid.columns), u32::from(grid.rows));
        let Some(&first) = tiles.first() else { return Err(Fault::Damaged) };
        if tiles.len() != columns as usize * rows as usize {
            return Err(Fault::Damaged);
        }
        if tiles.len() > MAX_TILES {
            return Err(Fault::Refused("it has too many tiles"));
        }
        let (tile, coding) = (size_of(file, first)?, coding(file.item(first)?)?);
        let size = Size { width: grid.output_width, height: grid.output_height };
        let (_, own_turn) = shown(file, item, size)?;
        for &id in &tiles {
            let item = file.item(id)?;
            check_essential(file, item)?;
            if self::coding(item)? != coding || size_of(file, id)? != tile {
                return Err(Fault::Refused("its tiles differ in size or coding"));
            }
            // Old versions of libavif wrote the grid's orientation to each tile as well; it must be applied
            // only once.
            let (area, turned) = shown(file, item, tile)?;
            let repeated = own_turn != Orientation::NoTransforms && turned == own_turn;
            let is_whole = area == shown_whole(tile).0;
            if !is_whole || (turned != Orientation::NoTransforms && !(coding.is_av1() && repeated))
            {
                return Err(Fault::Refused("its tiles are cropped or turned"));
            }
        }
        let covers = |tile: u32, count: u32, side: u32| {
            let whole = u64::from(tile) * u64::from(count);
            // With one column or row more than needed, a coded image would lie completely outside the image.
            whole >= u64::from(side) && whole - u64::from(side) < u64::from(tile) && whole < 1 << 31
        };
        if !covers(tile.width, columns, size.width) || !covers(tile.height, rows, size.height) {
            return Err(Fault::Damaged);
        }
        let own = meaning(file, item.id)?;
        let meaning = if own.is_some() { own } else { meaning(file, first)? };
        Ok(Self { coding, tiles, columns, tile, size, meaning })
    }
}

/// The coding of an item.
fn coding(item: &Item) -> Result<Coding, Fault> {
    match &item.item_type.0 {
        #[cfg(feature = "avif")]
        b"av01" => Ok(Coding::Av1),
        #[cfg(not(feature = "avif"))]
        b"av01" => Err(Fault::Refused("this build does not read AV1")),
        #[cfg(feature = "heic")]
        b"hvc1" => Ok(Coding::Hevc),
        #[cfg(not(feature = "heic"))]
        b"hvc1" => Err(Fault::Refused("this build does not read HEVC")),
        b"iden" | b"iovl" | b"grid" | b"tmap" => {
            Err(Fault::Refused("it puts its image together from others"))
        }
        _ => Err(Fault::Refused("its coding is neither HEVC nor AV1")),
    }
}

/// Columns and rows of a coded image, as the container declares them.
fn size_of(file: &HeifFile<'_>, id: ItemId) -> Result<Size, Fault> {
    let (width, height) = file.image_size(id)?.ok_or(Fault::Damaged)?;
    Ok(Size { width, height })
}

/// Refuses a property that is marked as essential and not understood here.
fn check_essential(file: &HeifFile<'_>, item: &Item) -> Result<(), Fault> {
    for association in item.properties.iter().filter(|association| association.essential) {
        let at = usize::from(association.index).checked_sub(1);
        let known = match at.and_then(|at| file.properties.get(at)) {
            Some(Property::Unknown(name, _)) => matches!(&name.0, b"av1C" | b"colr" | b"pasp"),
            _ => true,
        };
        if !known {
            return Err(Fault::Refused("it needs a property that is not known here"));
        }
    }
    Ok(())
}

fn meaning(file: &HeifFile<'_>, id: ItemId) -> Result<Option<Meaning>, Fault> {
    Ok(file.item_properties(id)?.find_map(|property| match *property {
        Property::Color(ColorInfo::Nclx { matrix, full_range, .. }) => {
            Some(Meaning { matrix, full_range })
        }
        _ => None,
    }))
}

fn is_alpha(file: &HeifFile<'_>, id: ItemId) -> Result<bool, Fault> {
    const NAMES: [&str; 2] =
        ["urn:mpeg:hevc:2015:auxid:1", "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"];
    Ok(file.item_properties(id)?.any(|property| {
        matches!(property, Property::AuxiliaryType(name) if NAMES.contains(&name.as_str()))
    }))
}

fn shown_whole(size: Size) -> (Area, Orientation) {
    let Size { width, height } = size;
    (Area { left: 0, top: 0, width, height }, Orientation::NoTransforms)
}

/// The part of an item that is shown, and how it is turned.
fn shown(file: &HeifFile<'_>, item: &Item, size: Size) -> Result<(Area, Orientation), Fault> {
    let (mut area, _) = shown_whole(size);
    // Every orientation is an optional left-right mirroring followed by some quarter turns clockwise.
    let (mut mirrored, mut quarters) = (false, 0);
    for property in file.item_properties(item.id)? {
        match *property {
            Property::CleanAperture { width, height, horiz_offset, vert_offset } => {
                // Pillow's AVIF reader ignores the crop, so it is unclear which image is meant.
                if item.item_type.0 == *b"av01" {
                    return Err(Fault::Refused("it is cropped"));
                }
                if mirrored || quarters != 0 || area != shown_whole(size).0 {
                    return Err(Fault::Refused("it is cropped after it is turned"));
                }
                let (left, width) = aperture(size.width, width, horiz_offset)?;
                let (top, height) = aperture(size.height, height, vert_offset)?;
                area = Area { left, top, width, height };
            }
            Property::Rotation(against) => quarters = (quarters + 4 - against) % 4,
            Property::Mirror(upside_down) => {
                mirrored = !mirrored;
                quarters = if upside_down { 6 - quarters } else { 4 - quarters } % 4;
            }
            _ => {}
        }
    }
    let orientation = match (mirrored, quarters) {
        (false, 0) => Orientation::NoTransforms,
        (false, 1) => Orientation::Rotate90,
        (false, 2) => Orientation::Rotate180,
        (false, _) => Orientation::Rotate270,
        (true, 0) => Orientation::FlipHorizontal,
        (true, 1) => Orientation::Rotate270FlipH,
        (true, 2) => Orientation::FlipVertical,
        (true, _) => Orientation::Rotate90FlipH,
    };
    Ok((area, orientation))
}

/// The first pixel and the length of a cropped side, from a length and the distance of its middle from the
/// side's middle, both fractions.
fn aperture(side: u32, length: (u32, u32), offset: (i32, u32)) -> Result<(u32, u32), Fault> {
    let refused = Fault::Refused("its crop is not in whole pixels within the image");
    let crop = || {
        let length_in_pixels = length.0.checked_div(length.1)?;
        if length_in_pixels == 0 || !length.0.is_multiple_of(length.1) || offset.1 == 0 {
            return None;
        }
        // Computes (side - length) / 2 + offset with the denominator `2 * offset.1`.
        let room = i64::from(side) - i64::from(length_in_pixels);
        let denominator = 2 * i64::from(offset.1);
        let first = room * i64::from(offset.1) + 2 * i64::from(offset.0);
        let first = if first % denominator == 0 { first / denominator } else { return None };
        let first = u32::try_from(first).ok()?;
        (first.checked_add(length_in_pixels)? <= side).then_some((first, length_in_pixels))
    };
    crop().ok_or(refused)
}
