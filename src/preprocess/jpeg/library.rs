//! Decodes JPEG files with libjpeg-turbo, as Pillow does, so that the pixels are equal.
//!
//! The library reports an error by a callback that must not return. Here the callback unwinds, for which the C
//! code is compiled (`-fexceptions`), and [`decode`] catches it.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
};

use memchr::memmem;
use mozjpeg_sys::{
    J_COLOR_SPACE, JERR_NO_BACKING_STORE, JERR_OUT_OF_MEMORY, JWRN_EXTRANEOUS_DATA,
    JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_JPEG_EOF, JWRN_MUST_RESYNC, c_int, c_long, c_ulong,
    jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_mem_src, jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines,
    jpeg_start_decompress, jpeg_std_error,
};

use super::layout::{Layout, MAX_SCANS, Refusal};

/// So many zeros in a row are not image data: the file was created with its full length, but not written
/// completely.
const HOLE: [u8; 32] = [0; 32];

/// The library's `JWRN_ARITH_BAD_CODE`, which the bindings lack.
const JWRN_ARITH_BAD_CODE: c_int = 126;

/// Bytes that the library may have read ahead.
const READ_AHEAD: usize = 8;

/// The meaning of the components, and their conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    /// The markers decide by the library's rules; the output is RGB.
    Own,
    /// The components are luma and chroma, whatever the markers say; the output is RGB.
    Luma,
    /// The caller knows their meaning; they are not converted.
    Stored,
}

/// A request to the library.
pub(super) struct Request<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) layout: &'b Layout,
    pub(super) colours: Colours,
    /// Whether to decode at half the size, with sides rounded up.
    pub(super) halve: bool,
    /// Maximum number of bytes that coefficients may take.
    pub(super) max_bytes: u64,
}

/// Decodes into `pixels`: rows of RGB with three bytes per pixel, or rows with one byte for each unconverted
/// component.
///
/// An image is refused if data is missing, or damaged in a way that the library notices. Pillow reads many such
/// images, but its pixels depend on the version of its library.
pub(super) fn decode(request: &Request<'_>, pixels: &mut [u8]) -> Result<(), Refusal> {
    let layout = request.layout;
    let mut watch = Watch::default();
    let seen: *mut Watch = &mut watch;
    let outcome = catch_unwind(AssertUnwindSafe(|| Session::new().run(request, pixels, seen)));
    let position = match outcome {
        Ok(outcome) => outcome?,
        Err(panic) => return Err(refusal(panic)),
    };
    if watch.damaged {
        return Err(Refusal::Damaged);
    }
    if watch.missing || layout.end.is_none() && has_hole(request, position, &watch) {
        return Err(Refusal::EndsEarly);
    }
    Ok(())
}

/// The refusal that a callback unwinds with. Any other panic is a defect and is resumed.
fn refusal(panic: Box<dyn Any + Send>) -> Refusal {
    match panic.downcast::<Refusal>() {
        Ok(refusal) => *refusal,
        Err(panic) => resume_unwind(panic),
    }
}

/// Whether the library decoded zeros as image data.
///
/// * `position`: the library's position in the data after the last row
fn has_hole(request: &Request<'_>, position: usize, watch: &Watch) -> bool {
    let length = request.bytes.len();
    // The data of so few units is shorter than the bytes that are read ahead, so it cannot be told apart from
    // zeros after it.
    if request.layout.is_tiny() && request.bytes.ends_with(&[0; READ_AHEAD]) {
        return true;
    }
    let end = match request.layout.is_one_pass() {
        true if watch.exhausted => length,
        true => position.saturating_sub(READ_AHEAD),
        false => length.saturating_sub(watch.skipped),
    };
    let data = request.bytes.get(request.layout.data..end).unwrap_or_default();
    memmem::find(data, &HOLE).is_some()
}

/// Reports of the library so far.
#[derive(Default)]
struct Watch {
    /// Whether data is missing, at the end or before a restart marker.
    missing: bool,
    /// Whether the data cannot come from an encoder.
    damaged: bool,
    /// Whether the library asked for more data than the file has.
    exhausted: bool,
    /// Bytes that the library last skipped to find a marker.
    skipped: usize,
}

impl Watch {
    fn warn(&mut self, code: c_int, parameter: u32) {
        match code {
            JWRN_HIT_MARKER | JWRN_MUST_RESYNC => self.missing = true,
            JWRN_HUFF_BAD_CODE | JWRN_ARITH_BAD_CODE => self.damaged = true,
            JWRN_EXTRANEOUS_DATA => self.skipped = parameter as usize,
            JWRN_JPEG_EOF => self.exhausted = true,
            _ => {}
        }
    }
}

/// The library's state. It must not move once the library knows its address.
struct Session {
    state: jpeg_decompress_struct,
    error: jpeg_error_mgr,
    progress: jpeg_progress_mgr,
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the state is zeroed or was created by the library, and the library accepts both.
        unsafe { jpeg_destroy_decompress(&mut self.state) }
    }
}

impl Session {
    fn new() -> Self {
        // SAFETY: these are C structures for which all zeros are valid (null pointers, absent functions), and
        // the library requires them to be zeroed.
        let (state, error) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let progress = jpeg_progress_mgr {
            progress_monitor: Some(progress),
            pass_counter: 0,
            pass_limit: 0,
            completed_passes: 0,
            total_passes: 0,
        };
        Self { state, error, progress }
    }

    /// Decodes, and returns the position in the data after the last row.
    fn run(
        &mut self,
        request: &Request<'_>,
        pixels: &mut [u8],
        watch: *mut Watch,
    ) -> Result<usize, Refusal> {
        let Request { bytes, layout, colours, halve, max_bytes } = *request;
        // SAFETY: `self` stays where it is until it is dropped, and `bytes` and `watch` outlive it. The functions
        // are called in the order that the library's manual asks for.
        unsafe {
            jpeg_std_error(&mut self.error);
            self.error.error_exit = Some(fail);
            self.error.emit_message = Some(warn);
            self.error.output_message = Some(say_nothing);
            self.state.common.err = &mut self.error;
            jpeg_create_decompress(&mut self.state);
            self.state.common.client_data = watch.cast();
            self.state.common.progress = &mut self.progress;
            (*self.state.common.mem).max_memory_to_use =
                c_long::try_from(max_bytes).unwrap_or(c_long::MAX).max(1);
            jpeg_mem_src(&mut self.state, bytes.as_ptr(), bytes.len() as c_ulong);
            jpeg_read_header(&mut self.state, 1);
        }
        let state = &mut self.state;
        let size = [layout.width, layout.height].map(u32::from);
        // The limits were checked for the size in the markers, so the library must agree with it.
        if [state.image_width, state.image_height] != size
            || usize::try_from(state.num_components) != Ok(layout.components.len())
        {
            return Err(Refusal::Damaged);
        }
        let components = layout.components.len();
        let inks = colours == Colours::Own && components == 4;
        match colours {
            Colours::Own if inks => state.out_color_space = J_COLOR_SPACE::JCS_CMYK,
            Colours::Own => state.out_color_space = J_COLOR_SPACE::JCS_RGB,
            Colours::Luma => {
                state.jpeg_color_space = J_COLOR_SPACE::JCS_YCbCr;
                state.out_color_space = J_COLOR_SPACE::JCS_RGB;
            }
            Colours::Stored => {
                state.jpeg_color_space = J_COLOR_SPACE::JCS_UNKNOWN;
                state.out_color_space = J_COLOR_SPACE::JCS_UNKNOWN;
            }
        }
        (state.scale_num, state.scale_denom) = (1, if halve { 2 } else { 1 });
        // SAFETY: the state is initialised and the header was read, as this function requires.
        unsafe { jpeg_start_decompress(state) };
        let channels = if colours == Colours::Stored { components } else { 3 };
        let row = state.output_width as usize * channels;
        if pixels.len() != row * state.output_height as usize
            || usize::try_from(state.output_components) != Ok(if inks { 4 } else { channels })
        {
            return Err(Refusal::Damaged);
        }
        let mut printed = vec![0; if inks { row / 3 * 4 } else { 0 }];
        for out in pixels.chunks_exact_mut(row) {
            let mut into = if inks { printed.as_mut_ptr() } else { out.as_mut_ptr() };
            // SAFETY: `into` points to a row with as many samples as the library says that it writes. The data
            // source never suspends, so the library writes exactly one row.
            if unsafe { jpeg_read_scanlines(state, &mut into, 1) } != 1 {
                return Err(Refusal::Damaged);
            }
            if inks {
                inks_to_rgb(&printed, out);
            }
        }
        // SAFETY: the library set `src` above, and it stays valid as long as the state.
        Ok(bytes.len().saturating_sub(unsafe { (*state.src).bytes_in_buffer }))
    }
}

/// CMYK with inverted values, as Adobe's programs write it and Pillow reads every file, to RGB by Pillow's formula.
fn inks_to_rgb(inks: &[u8], rgb: &mut [u8]) {
    for (ink, out) in inks.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let light = u32::from(ink[3]);
        for (value, &ink) in out.iter_mut().zip(ink) {
            let product = u32::from(255 - ink) * light + 128;
            // A product of two bytes divided by 255 and rounded is at most the second byte, so this does not
            // underflow.
            *value = (light - ((product + (product >> 8)) >> 8)) as u8;
        }
    }
}

/// Called for an error of the library. It must not return.
unsafe extern "C-unwind" fn fail(common: &mut jpeg_common_struct) {
    // SAFETY: the library passes the state whose error handler was set.
    let code = unsafe { (*common.err).msg_code };
    let refusal = match code {
        JERR_NO_BACKING_STORE | JERR_OUT_OF_MEMORY => Refusal::TooMuchMemory,
        _ => Refusal::Damaged,
    };
    // `resume_unwind` does not call the panic hook, because this is not a panic to report.
    resume_unwind(Box::new(refusal))
}

/// Called for a warning or a trace message of the library.
unsafe extern "C-unwind" fn warn(common: &mut jpeg_common_struct, level: c_int) {
    if level >= 0 {
        return;
    }
    let state: *const jpeg_decompress_struct = ptr::from_mut(common).cast();
    // SAFETY: `common` is the beginning of the state of a session, whose handler and watch were set in `run`; the
    // watch is not touched elsewhere while the library runs.
    unsafe {
        let error = &*(*state).common.err;
        let watch = &mut *(*state).common.client_data.cast::<Watch>();
        watch.warn(error.msg_code, error.msg_parm._bindgen_data_[0]);
    }
}

unsafe extern "C-unwind" fn say_nothing(_: &mut jpeg_common_struct) {}

/// Called for each row and scan.
unsafe extern "C-unwind" fn progress(common: &mut jpeg_common_struct) {
    let state: *const jpeg_decompress_struct = ptr::from_mut(common).cast();
    // SAFETY: `common` is the beginning of the state of a session.
    if unsafe { (*state).input_scan_number } as usize > MAX_SCANS {
        resume_unwind(Box::new(Refusal::TooManyScans))
    }
}
