//! What a program runs between two launches, as far as the processor remembers it: other data on other pages, other code on
//! other pages.
//!
//! Eager PyTorch runs some 10 us of interpreter, dispatcher and allocator from one launch to the next. That leaves
//! little of a hook in the first-level caches, the cache of decoded instructions, the branch predictor and the TLBs, and most of it in the second
//! level. A loop that launches and does nothing else sees none of it; walking over all caches sees far too much.

use std::io;
use std::ptr::NonNull;

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;

/// How much is run through.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Pages of data.
    pub data_pages: usize,
    /// Lines written on each of them.
    pub data_lines: usize,
    /// Functions, each on a page of its own.
    pub functions: usize,
    /// Lines of code that each of them runs through.
    pub code_lines: usize,
}

/// Data and functions to run through.
pub struct Between {
    amount: Amount,
    data: Mapping,
    functions: Vec<extern "C" fn()>,
    _code: Mapping,
}

impl Between {
    /// Maps and fills it.
    ///
    /// # Errors
    /// What mmap(2) or mprotect(2) says.
    pub fn new(amount: Amount) -> io::Result<Self> {
        let data = Mapping::new(amount.data_pages.max(1) * PAGE_BYTES)?;
        let code = Mapping::new(amount.functions.max(1) * PAGE_BYTES)?;
        let functions = (0..amount.functions).map(|number| write_function(&code, number, amount.code_lines)).collect();
        code.make_executable()?;
        Ok(Self { amount, data, functions, _code: code })
    }

    /// Runs through all of it once.
    #[inline(never)]
    pub fn run(&self) {
        for page in 0..self.amount.data_pages {
            for line in 0..self.amount.data_lines {
                let at = page * PAGE_BYTES + place(page, line) * LINE_BYTES;
                // SAFETY: within the mapping, which is this value's own, and nobody else's.
                unsafe {
                    let byte = self.data.start.add(at);
                    byte.write_volatile(byte.read_volatile().wrapping_add(1));
                }
            }
        }
        for function in &self.functions {
            function();
        }
    }
}

/// Which line of a page comes in its turn: another on each page, so that all sets of a cache get their share.
fn place(page: usize, turn: usize) -> usize {
    (page * 7 + turn * 5) % (PAGE_BYTES / LINE_BYTES)
}

/// A function that jumps from line to line of its page and returns.
fn write_function(code: &Mapping, number: usize, lines: usize) -> extern "C" fn() {
    const JUMP: u8 = 0xe9;
    const RETURN: u8 = 0xc3;
    let line_at = |turn| place(number, turn) * LINE_BYTES;
    for turn in 0..lines.max(1) {
        let mut bytes = [RETURN; 5];
        if turn + 1 < lines {
            // Relative to the instruction's end, within a page.
            let distance = line_at(turn + 1) as i32 - (line_at(turn) + bytes.len()) as i32;
            bytes[0] = JUMP;
            bytes[1..].copy_from_slice(&distance.to_le_bytes());
        }
        // SAFETY: within the mapping: the page of that number, and five bytes into a line of it.
        unsafe {
            let to = code.start.add(number * PAGE_BYTES + line_at(turn));
            to.copy_from_nonoverlapping(NonNull::from(&bytes).cast(), bytes.len());
        }
    }
    // SAFETY: the first line of the function just written.
    let first = unsafe { code.start.add(number * PAGE_BYTES + line_at(0)) };
    // SAFETY: x86-64 code that keeps to the C ABI, since it touches no register; executable before it is called.
    unsafe { std::mem::transmute::<*mut u8, extern "C" fn()>(first.as_ptr()) }
}

/// Pages of our own.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of no file.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                // A program's data lies on small pages as a rule; a refusal leaves what the system does by itself.
                // SAFETY: advice about our own mapping.
                unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
                Ok(Self { start, bytes })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn make_executable(&self) -> io::Result<()> {
        // SAFETY: our own mapping.
        match unsafe { libc::mprotect(self.start.as_ptr().cast(), self.bytes, libc::PROT_READ | libc::PROT_EXEC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and what referred to it goes with it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_run_through() {
        let amount = Amount { data_pages: 3, data_lines: 8, functions: 5, code_lines: 6 };
        let between = Between::new(amount).expect("there is memory");
        between.run();
        between.run();
        // SAFETY: the mapping, read by the thread that wrote it.
        let bytes = unsafe { std::slice::from_raw_parts(between.data.start.as_ptr(), between.data.bytes) };
        assert_eq!(bytes.iter().filter(|b| **b == 2).count(), 3 * 8, "no line is taken twice");
    }
}
