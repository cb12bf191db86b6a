//! Memory pools: what cuMemAllocAsync allocates from.

use super::memory::{BlockKind, rounded};
use super::{PROCESS, Process, Sim};
use crate::status::{R, Status};

/// A pool. Freed memory stays reserved up to the release threshold.
#[derive(Default, Debug)]
pub(crate) struct Pool {
    pub(crate) used_bytes: u64,
    pub(crate) used_high_bytes: u64,
    pub(crate) reserved_bytes: u64,
    pub(crate) reserved_high_bytes: u64,
    pub(crate) threshold_bytes: u64,
    /// Reuse by event dependencies, opportunistic, with internal dependencies.
    pub(crate) reuse_disabled: [bool; 3],
    pub(crate) is_default: bool,
    doomed: bool,
}

impl Sim {
    /// The device's own pool.
    pub(crate) fn default_pool(&mut self) -> usize {
        let first = self.pools.first(|pool| pool.is_default);
        first.unwrap_or_else(|| self.pools.insert(Pool { is_default: true, ..Pool::default() }))
    }

    /// The pool that cuMemAllocAsync takes from.
    pub(crate) fn pool_in_use(&mut self) -> usize {
        if self.pools.get(self.current_pool).is_none() {
            self.current_pool = self.default_pool();
        }
        self.current_pool
    }

    /// Allocates from a pool.
    pub(crate) fn allocate_pooled(&mut self, process: &Process, bytes: usize, handle: usize) -> R<usize> {
        let context = self.current_handle()?;
        let pool = self.pools.get_mut(handle).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        let taken = rounded(bytes) as u64;
        let grown = pool.used_bytes.saturating_add(taken).saturating_sub(pool.reserved_bytes);
        if grown > 0 && !process.gpu.take_memory(process.slot(), grown) {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        pool.used_bytes += taken;
        pool.reserved_bytes += grown;
        pool.used_high_bytes = pool.used_high_bytes.max(pool.used_bytes);
        pool.reserved_high_bytes = pool.reserved_high_bytes.max(pool.reserved_bytes);
        self.memory.add_device(bytes, context, BlockKind::Pooled { pool: handle, leaving: false })
    }

    /// Marks a block as freed by cuMemFreeAsync.
    pub(crate) fn leave_pool(&mut self, address: usize) -> R {
        match self.memory.device.get_mut(&address).map(|block| &mut block.kind) {
            Some(BlockKind::Pooled { leaving, .. }) if !*leaving => {
                *leaving = true;
                Ok(())
            }
            Some(BlockKind::Plain) => Ok(()),
            _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
        }
    }

    /// Puts a block back into its pool.
    pub(crate) fn release_pooled(&mut self, address: usize) {
        let Some(process) = PROCESS.get() else { return };
        let Some(block) = self.memory.remove_device(address) else {
            return;
        };
        let bytes = rounded(block.bytes) as u64;
        let BlockKind::Pooled { pool: handle, .. } = block.kind else {
            return process.gpu.return_memory(process.slot(), bytes);
        };
        let Some(pool) = self.pools.get_mut(handle) else {
            return;
        };
        pool.used_bytes = pool.used_bytes.saturating_sub(bytes);
        let (keep, doomed) = (pool.threshold_bytes, pool.doomed && pool.used_bytes == 0);
        self.trim_pool(process, handle, if doomed { 0 } else { keep });
        if doomed {
            self.pools.remove(handle);
        }
    }

    /// Gives reserved memory that is not in use back to the GPU, down to `keep_bytes`.
    pub(crate) fn trim_pool(&mut self, process: &Process, handle: usize, keep_bytes: u64) {
        let Some(pool) = self.pools.get_mut(handle) else {
            return;
        };
        let keep = pool.used_bytes.max(keep_bytes.min(pool.reserved_bytes));
        process.gpu.return_memory(process.slot(), pool.reserved_bytes - keep);
        pool.reserved_bytes = keep;
    }

    /// cuMemPoolDestroy: gone once nothing of it is in use.
    pub(crate) fn destroy_pool(&mut self, process: &Process, handle: usize) -> R {
        let pool = self.pools.get_mut(handle).filter(|pool| !pool.is_default && !pool.doomed);
        let pool = pool.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        pool.doomed = true;
        if pool.used_bytes == 0 {
            self.trim_pool(process, handle, 0);
            self.pools.remove(handle);
        }
        Ok(())
    }
}
