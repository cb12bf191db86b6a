//! What an address is.

use super::not_null;
use crate::sim::{BlockKind, LARGE_PAGE, Sim};
use crate::status::{R, Status};
use cudarc::driver::sys::CUdeviceptr;
use std::ffi::{c_int, c_uint, c_void};

const MEMORY_TYPE_HOST: u64 = 1;
const MEMORY_TYPE_DEVICE: u64 = 2;
const SYNC_MEMOPS: u32 = 6;

/// An address, as the attributes describe it.
#[derive(Clone, Copy)]
struct Facts {
    context: usize,
    memory_type: u64,
    address: usize,
    is_host_visible: bool,
    sync_memops: bool,
    buffer_id: u64,
    is_managed: bool,
    start: usize,
    bytes: usize,
    /// What the GPU has mapped around it: start and size in bytes.
    mapping: (usize, usize),
    block_id: u64,
    pool: usize,
}

fn facts(sim: &Sim, address: usize) -> Option<Facts> {
    if let Some((start, block)) = sim.memory.device_block(address) {
        let is_managed = block.kind == BlockKind::Managed;
        let pool = if let BlockKind::Pooled { pool, .. } = block.kind { pool } else { 0 };
        return Some(Facts {
            context: if pool == 0 { block.context } else { 0 },
            memory_type: MEMORY_TYPE_DEVICE,
            address,
            is_host_visible: is_managed,
            sync_memops: block.sync_memops,
            buffer_id: block.buffer_id,
            is_managed,
            start,
            bytes: block.bytes,
            mapping: (start, block.bytes),
            block_id: block.buffer_id,
            pool,
        });
    }
    let (start, block) = sim.memory.host_block(address)?;
    // Host memory is mapped in large pages, which small blocks share, and their number with them.
    let first = if block.registered { start } else { start / LARGE_PAGE * LARGE_PAGE };
    let end = start + block.bytes;
    let end = if block.registered { end } else { end.next_multiple_of(LARGE_PAGE) };
    Some(Facts {
        context: block.context,
        memory_type: MEMORY_TYPE_HOST,
        address,
        is_host_visible: true,
        sync_memops: block.sync_memops,
        buffer_id: block.buffer_id,
        is_managed: false,
        start,
        bytes: block.bytes,
        mapping: (first, end - first),
        block_id: if block.registered { block.buffer_id } else { (first / LARGE_PAGE) as u64 },
        pool: 0,
    })
}

/// An attribute's value and its size in bytes; an error where the address has no such attribute.
fn attribute(attribute: c_uint, facts: Facts) -> R<(u64, usize)> {
    let host_pointer = if facts.is_host_visible { Ok(facts.address) } else { Err(Status::CUDA_ERROR_INVALID_VALUE) };
    Ok(match attribute {
        1 => (facts.context as u64, 8),
        2 => (facts.memory_type, 4),
        3 => (facts.address as u64, 8),
        4 => (host_pointer? as u64, 8),
        SYNC_MEMOPS => (facts.sync_memops.into(), 4),
        7 => (facts.buffer_id, 8),
        8 => (facts.is_managed.into(), 4),
        // Device ordinal; no legacy IPC; range; mapped.
        9 | 10 => (0, 4),
        11 => (facts.start as u64, 8),
        12 => (facts.bytes as u64, 8),
        13 => (1, 4),
        // No handle types, no remote access; readable and writable.
        14 => (0, 8),
        15 => (0, 4),
        16 => (3, 4),
        17 => (facts.pool as u64, 8),
        18 => (facts.mapping.1 as u64, 8),
        19 => (facts.mapping.0 as u64, 8),
        20 => (facts.block_id, 8),
        21 => (0, 4),
        _ => return Err(Status::CUDA_ERROR_INVALID_VALUE),
    })
}

const P2P_TOKENS: u32 = 5;
const RANGE_START: u32 = 11;
const RANGE_SIZE: u32 = 12;
const LAST_ATTRIBUTE: u32 = 21;

/// What cuPointerGetAttributes says of an address that the driver does not know: mostly nothing.
fn unknown_attribute(attribute: c_uint) -> (u64, usize) {
    match attribute {
        // Left as it was.
        P2P_TOKENS | RANGE_START | RANGE_SIZE => (0, 0),
        2 | 6 | 8 | 10 | 13 | 15 | 16 | 21 => (0, 4),
        // CU_DEVICE_INVALID.
        9 => (u64::from((-2 as c_int) as u32), 4),
        _ => (0, 8),
    }
}

unsafe fn write(to: *mut c_void, (value, bytes): (u64, usize)) {
    // SAFETY: the caller has room for the attribute's type, by the API's contract.
    unsafe { std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), to.cast(), bytes) };
}

driver_api! {
    /// An attribute of an address.
    fn cuPointerGetAttribute(value: *mut c_void, number: c_uint, address: CUdeviceptr) |process| {
        not_null(value)?;
        let sim = process.sim();
        let facts = facts(&sim, address as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        write(value, attribute(number, facts)?);
        Ok(())
    }

    /// Several attributes of an address; of one that is not the driver's, the defaults. What stands before one that does
    /// not exist is answered.
    fn cuPointerGetAttributes(count: c_uint, numbers: *mut c_uint, values: *mut *mut c_void, address: CUdeviceptr) |process| {
        not_null(numbers)?;
        not_null(values)?;
        if count == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let sim = process.sim();
        let facts = facts(&sim, address as usize);
        for index in 0..count as usize {
            let (number, value) = (numbers.add(index).read(), values.add(index).read());
            not_null(value)?;
            if !(1..=LAST_ATTRIBUTE).contains(&number) {
                return Err(Status::CUDA_ERROR_INVALID_VALUE);
            }
            let answer = facts.map(|facts| attribute(number, facts));
            write(value, answer.and_then(Result::ok).unwrap_or_else(|| unknown_attribute(number)));
        }
        Ok(())
    }

    /// Sets whether synchronous memory operations on a block always synchronise; nothing else can be set.
    fn cuPointerSetAttribute(value: *const c_void, number: c_uint, address: CUdeviceptr) |process| {
        not_null(value)?;
        if number != SYNC_MEMOPS {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let mut sim = process.sim();
        sim.check_unsafe_call()?;
        let syncs = sim.memory.sync_memops(address as usize).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        *syncs = value.cast::<c_uint>().read() != 0;
        Ok(())
    }
}
