//! Reads a JPEG's markers before a decoder sees the file.

use std::ops::Range;

use memchr::memchr;

/// Maximum number of scans of one image. A few bytes make a scan, and each scan is a pass over the whole image.
pub(super) const MAX_SCANS: usize = 100;

/// Maximum number of components: CMYK has four.
const MAX_COMPONENTS: usize = 4;

mod marker {
    pub(super) const SOF0: u8 = 0xC0;
    pub(super) const SOF2: u8 = 0xC2;
    pub(super) const SOF9: u8 = 0xC9;
    pub(super) const SOF10: u8 = 0xCA;
    pub(super) const DHT: u8 = 0xC4;
    pub(super) const DAC: u8 = 0xCC;
    pub(super) const RST: std::ops::RangeInclusive<u8> = 0xD0..=0xD7;
    pub(super) const SOI: u8 = 0xD8;
    pub(super) const EOI: u8 = 0xD9;
    pub(super) const SOS: u8 = 0xDA;
    pub(super) const DQT: u8 = 0xDB;
    pub(super) const DRI: u8 = 0xDD;
    pub(super) const APP0: u8 = 0xE0;
    pub(super) const APP1: u8 = 0xE1;
    pub(super) const APP14: u8 = 0xEE;
    pub(super) const APPS: std::ops::RangeInclusive<u8> = 0xE0..=0xEF;
    pub(super) const COM: u8 = 0xFE;
    /// Start of a frame, of any kind.
    pub(super) const FRAMES: std::ops::RangeInclusive<u8> = 0xC0..=0xCF;
}

/// Why a file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// The file is no JPEG, or its segments cannot be followed.
    Damaged,
    /// Rows or scans are missing.
    EndsEarly,
    /// A kind of JPEG that is not read: lossless, hierarchical, 12 bits, two components.
    Unsupported,
    /// More scans than [`MAX_SCANS`].
    TooManyScans,
    /// More memory than allowed.
    TooMuchMemory,
}

/// One component of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors, 1 to 4: columns and rows.
    pub(super) sampling: [u8; 2],
    /// The lowest bit of each coefficient that was sent; none if no bit was sent.
    sent: [Option<u8>; 64],
}

/// The facts from a file's markers on which decoding depends.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) progressive: bool,
    pub(super) arithmetic: bool,
    pub(super) components: Vec<Component>,
    pub(super) scans: usize,
    /// Whether the first scan has all components, in the order of the frame.
    pub(super) interleaved: bool,
    pub(super) jfif: bool,
    /// The transform that an Adobe marker names.
    pub(super) adobe: Option<u8>,
    /// Whether the scans have restart markers.
    pub(super) restarts: bool,
    /// The range of the EXIF block, without its name.
    pub(super) exif: Option<Range<usize>>,
    /// Where the first scan's data begins.
    pub(super) data: usize,
    /// The position of the end marker; none if the file has none.
    pub(super) end: Option<usize>,
    /// Whether every segment is of a kind, and at a place, that ordinary encoders write.
    pub(super) regular: bool,
}

impl Layout {
    /// Follows the markers from the first to the end marker, as libjpeg does.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut layout = Self::empty();
        let mut walk = Walk { bytes, at: 2, clean: true };
        if bytes.get(..2) != Some(&[0xFF, marker::SOI]) {
            return Err(Refusal::Damaged);
        }
        while let Some(code) = walk.next_marker() {
            let in_data = layout.scans > 0;
            match code {
                marker::EOI => {
                    layout.end = Some(walk.at - 2);
                    break;
                }
                // Another image begins here, so this one has no end marker.
                marker::SOI if in_data => break,
                marker::SOI => return Err(Refusal::Damaged),
                0x01 | 0xD0..=0xD7 => {
                    layout.regular &= code != 0x01 && in_data;
                    continue;
                }
                _ => {}
            }
            let Some(segment) = walk.segment() else {
                // After the last row any bytes are allowed that are not a segment.
                if in_data {
                    break;
                }
                return Err(Refusal::EndsEarly);
            };
            match layout.take(code, bytes, segment) {
                Ok(()) => {}
                Err(_) if in_data && code != marker::SOS => break,
                Err(refusal) => return Err(refusal),
            }
            if code == marker::SOS {
                layout.data = if in_data { layout.data } else { walk.at };
                walk.skip_scan();
            }
        }
        layout.regular &= walk.clean;
        layout.check()
    }

    fn empty() -> Self {
        Self {
            width: 0,
            height: 0,
            progressive: false,
            arithmetic: false,
            components: Vec::new(),
            scans: 0,
            interleaved: false,
            jfif: false,
            adobe: None,
            restarts: false,
            exif: None,
            data: 0,
            end: None,
            regular: true,
        }
    }

    fn take(&mut self, code: u8, bytes: &[u8], at: Range<usize>) -> Result<(), Refusal> {
        let segment = &bytes[at.clone()];
        match code {
            marker::SOS => return self.scan(segment),
            marker::DHT | marker::DQT | marker::COM => {}
            marker::DRI => match segment {
                [high, low] => self.restarts |= [*high, *low] != [0, 0],
                _ => return Err(Refusal::Damaged),
            },
            // After the first scan's header, application segments no longer count.
            marker::APP0 if self.scans == 0 => {
                self.jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0");
            }
            marker::APP14 if self.scans == 0 => {
                if segment.len() >= 12 && segment.starts_with(b"Adobe") {
                    self.adobe = Some(segment[11]);
                }
            }
            marker::APP1 if self.exif.is_none() && self.scans == 0 => {
                if segment.starts_with(b"Exif\0\0") {
                    self.exif = Some(at.start + 6..at.end);
                }
            }
            _ if marker::APPS.contains(&code) => {}
            marker::DAC => self.regular = false,
            _ if marker::FRAMES.contains(&code) => return self.frame(code, segment),
            // DNL (the number of lines) and other segments do not occur in ordinary files.
            _ => self.regular = false,
        }
        Ok(())
    }

    fn frame(&mut self, code: u8, segment: &[u8]) -> Result<(), Refusal> {
        if !self.components.is_empty() {
            return Err(Refusal::Damaged);
        }
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = segment else {
            return Err(Refusal::Damaged);
        };
        (self.progressive, self.arithmetic) = match code {
            marker::SOF0 | 0xC1 => (false, false),
            marker::SOF2 => (true, false),
            marker::SOF9 => (false, true),
            marker::SOF10 => (true, true),
            _ => return Err(Refusal::Unsupported),
        };
        self.regular &= code != 0xC1;
        (self.width, self.height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        if precision != 8 || !matches!(count, 1 | 3 | 4) {
            return Err(Refusal::Unsupported);
        }
        if components.len() != usize::from(count) * 3 {
            return Err(Refusal::Damaged);
        }
        for component in components.chunks_exact(3) {
            let sampling = [component[1] >> 4, component[1] & 15];
            if sampling.iter().any(|factor| !(1..=4).contains(factor)) {
                return Err(Refusal::Damaged);
            }
            self.components.push(Component { id: component[0], sampling, sent: [None; 64] });
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Refusal> {
        let (Some(&count), Some(parameters)) = (segment.first(), segment.last_chunk::<3>()) else {
            return Err(Refusal::Damaged);
        };
        let count = usize::from(count);
        if self.components.is_empty()
            || !(1..=MAX_COMPONENTS).contains(&count)
            || segment.len() != 1 + 2 * count + 3
        {
            return Err(Refusal::Damaged);
        }
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(Refusal::TooManyScans);
        }
        let &[first, last, bits] = parameters;
        let band = if self.progressive { usize::from(first)..=usize::from(last) } else { 0..=63 };
        let mut order = Vec::with_capacity(count);
        for named in segment[1..].chunks_exact(2).take(count) {
            let at = self.components.iter().position(|component| component.id == named[0]);
            let at = at.ok_or(Refusal::Damaged)?;
            order.push(at);
            let sent = self.components[at].sent.get_mut(band.clone()).ok_or(Refusal::Damaged)?;
            sent.fill(Some(if self.progressive { bits & 15 } else { 0 }));
        }
        if self.scans == 1 {
            self.interleaved = order.iter().copied().eq(0..self.components.len());
        }
        Ok(())
    }

    /// Checks that the markers describe an image that can be decoded.
    fn check(self) -> Result<Self, Refusal> {
        if self.components.is_empty() {
            return Err(Refusal::Damaged);
        }
        if self.scans == 0 {
            return Err(Refusal::EndsEarly);
        }
        // No decoder reads a height that comes after the data (DNL).
        if self.height == 0 && self.width > 0 {
            return Err(Refusal::Unsupported);
        }
        if self.width == 0 {
            return Err(Refusal::Damaged);
        }
        // A component without a scan would be decoded as grey.
        if self.components.iter().any(|component| component.sent[0].is_none()) {
            return Err(Refusal::EndsEarly);
        }
        if self.end.is_none() && (self.arithmetic || !self.sends_everything()) {
            return Err(Refusal::EndsEarly);
        }
        Ok(self)
    }

    /// Whether the scans hold each bit of each coefficient.
    fn sends_everything(&self) -> bool {
        self.components.iter().all(|component| component.sent.iter().all(|sent| *sent == Some(0)))
    }

    /// Whether the image has one scan, so that rows are decoded while it is read and nothing is kept.
    pub(super) fn is_one_pass(&self) -> bool {
        !self.progressive && self.scans == 1
    }

    /// Whether the image consists of a single unit.
    pub(super) fn is_tiny(&self) -> bool {
        let [across, down] = self.max_sampling().map(|factor| 8 * u16::from(factor));
        self.width <= across && self.height <= down
    }

    /// Whether the samples are red, green and blue. By libjpeg's rules JFIF decides before Adobe, and without
    /// both the names of the components decide.
    #[cfg(not(feature = "turbojpeg"))]
    pub(super) fn is_rgb(&self) -> bool {
        self.components.len() == 3
            && !self.jfif
            && match self.adobe {
                Some(transform) => transform == 0,
                None => self.components.iter().map(|component| component.id).eq(*b"RGB"),
            }
    }

    /// The largest sampling factors: columns and rows.
    pub(super) fn max_sampling(&self) -> [u8; 2] {
        [0, 1].map(|axis| {
            let factors = self.components.iter().map(|component| component.sampling[axis]);
            factors.max().unwrap_or(1)
        })
    }

    /// Rows of the smallest units that hold whole blocks of every component.
    pub(super) fn unit_rows(&self) -> u32 {
        u32::from(self.height).div_ceil(8 * u32::from(self.max_sampling()[1]))
    }

    /// An upper estimate of the bytes that libjpeg takes in addition to the pixels.
    pub(super) fn decode_bytes(&self) -> u64 {
        let [across, down] = self.max_sampling().map(u64::from);
        let columns = u64::from(self.width).div_ceil(8 * across);
        let rows = u64::from(self.unit_rows());
        let blocks = self.components.iter().map(|component| {
            let [across, down] = component.sampling.map(u64::from);
            columns * across * rows * down
        });
        let coefficients = if self.is_one_pass() { 0 } else { blocks.sum::<u64>() * 64 * 2 };
        // Rows of samples before and after upsampling, with the rows above and below.
        let strip = columns * 8 * across * (8 * down * 3 + 16) * self.components.len() as u64;
        coefficients + strip + (64 << 10)
    }
}

/// A place in the file.
struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
    /// Whether only fill bytes were skipped.
    clean: bool,
}

impl Walk<'_> {
    /// Moves past the next marker and returns its code; none at the end of the file.
    fn next_marker(&mut self) -> Option<u8> {
        loop {
            let skipped = memchr(0xFF, self.bytes.get(self.at..)?)?;
            self.clean &= skipped == 0;
            self.at += skipped;
            while *self.bytes.get(self.at)? == 0xFF {
                self.at += 1;
            }
            let code = self.bytes[self.at];
            self.at += 1;
            if code != 0 {
                return Some(code);
            }
            self.clean = false;
        }
    }

    /// Moves past the segment that begins here; none if the file is shorter.
    fn segment(&mut self) -> Option<Range<usize>> {
        let length = self.bytes.get(self.at..self.at + 2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let range = self.at + 2..self.at + length;
        (length >= 2 && range.end <= self.bytes.len()).then(|| {
            self.at = range.end;
            range
        })
    }

    /// Moves to the marker that ends the scan, and skips restart markers.
    fn skip_scan(&mut self) {
        while let Some(found) = self.bytes.get(self.at..).and_then(|rest| memchr(0xFF, rest)) {
            self.at += found;
            match self.bytes.get(self.at + 1) {
                Some(0) => self.at += 2,
                Some(code) if marker::RST.contains(code) => self.at += 2,
                Some(0xFF) => self.at += 1,
                _ => return,
            }
        }
        self.at = self.bytes.len();
    }
}
