//! JPEG through libjpeg-turbo: the decoder that Pillow has, with the same pixels.
//!
//! The library reports an error by a call that must not return. Here that call unwinds, which its C code is
//! compiled for (`-fexceptions`), up to [`decode`], which ends it.

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

/// So many zeros in a row are no image data: a file was given its full length before all of it came.
const HOLE: [u8; 32] = [0; 32];

/// The library's `JWRN_ARITH_BAD_CODE`, which the bindings lack.
const JWRN_ARITH_BAD_CODE: c_int = 126;

/// Bytes that the library may have read ahead.
const READ_AHEAD: usize = 8;

/// What the components are, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    /// What the markers say, by the library's rules: RGB.
    Own,
    /// Luma and chroma, whatever the markers say: RGB.
    Luma,
    /// Something else knows: they stay as they are.
    Stored,
}

/// What is asked of the library.
pub(super) struct Request<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) layout: &'b Layout,
    pub(super) colours: Colours,
    /// Whether an image of half the size is wanted, its sides rounded up.
    pub(super) halve: bool,
    /// Most bytes that coefficients may take.
    pub(super) max_bytes: u64,
}

/// Decodes into `pixels`: rows of three bytes a pixel, RGB, or of a byte for each component that stays as it is.
///
/// An image of which data is missing, or damaged in a way that the library notices, is refused. Pillow reads many
/// of them, but what it makes of the damage depends on its library's version.
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

/// The refusal that a callback unwinds with. Anything else is a defect, and goes on.
fn refusal(panic: Box<dyn Any + Send>) -> Refusal {
    match panic.downcast::<Refusal>() {
        Ok(refusal) => *refusal,
        Err(panic) => resume_unwind(panic),
    }
}

/// Whether zeros were taken for image data.
///
/// * `position`: where the library stands after the last row
fn has_hole(request: &Request<'_>, position: usize, watch: &Watch) -> bool {
    let length = request.bytes.len();
    // The data of so few units is shorter than what is read ahead: it cannot be told from the zeros behind it.
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

/// What the library has reported so far.
#[derive(Default)]
struct Watch {
    /// Whether data is missing, at the end or before a restart marker.
    missing: bool,
    /// Whether there is data that no encoder writes.
    damaged: bool,
    /// Whether the library asked for more than there is.
    exhausted: bool,
    /// Bytes that it has last skipped to find a marker.
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
        // SAFETY: these are zeros, or what the library has created; it accepts both.
        unsafe { jpeg_destroy_decompress(&mut self.state) }
    }
}

impl Session {
    fn new() -> Self {
        // SAFETY: structures of C, which the library wants zeroed before it fills them; null pointers and absent
        // functions are zeros.
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
        // The limits were checked on what the markers say.
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
        // SAFETY: the header was read.
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
            // SAFETY: `into` has room for a row of as many samples as the library says that it writes. Its data
            // source never suspends, so that it writes exactly one.
            if unsafe { jpeg_read_scanlines(state, &mut into, 1) } != 1 {
                return Err(Refusal::Damaged);
            }
            if inks {
                inks_to_rgb(&printed, out);
            }
        }
        // SAFETY: the library set its source above, and keeps it.
        Ok(bytes.len().saturating_sub(unsafe { (*state.src).bytes_in_buffer }))
    }
}

/// CMYK with inverted values, as Adobe's programs write it and Pillow reads every file, to RGB by Pillow's formula.
fn inks_to_rgb(inks: &[u8], rgb: &mut [u8]) {
    for (ink, out) in inks.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let light = u32::from(ink[3]);
        for (value, &ink) in out.iter_mut().zip(ink) {
            let product = u32::from(255 - ink) * light + 128;
            // A product of two bytes divided by 255, rounded, is at most the second.
            *value = (light - ((product + (product >> 8)) >> 8)) as u8;
        }
    }
}

/// An error of the library's.
unsafe extern "C-unwind" fn fail(common: &mut jpeg_common_struct) {
    // SAFETY: the library passes the state whose error handler was set.
    let code = unsafe { (*common.err).msg_code };
    let refusal = match code {
        JERR_NO_BACKING_STORE | JERR_OUT_OF_MEMORY => Refusal::TooMuchMemory,
        _ => Refusal::Damaged,
    };
    // Without the hook that reports panics: this is none.
    resume_unwind(Box::new(refusal))
}

/// A warning of the library's, or a trace.
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
