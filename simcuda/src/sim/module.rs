//! Modules and libraries: PTX text, of which the simulator reads the `.entry` lines, or an image of its own.
//!
//! The simulator's own image is text too: a first line `simcuda image 1`, then one entry name a line.

use super::Sim;
use crate::kernels::{self, Kernel, Launch, MAX_PARAMETERS};
use crate::status::{R, Status};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

const IMAGE_MAGIC: &str = "simcuda image 1\n";

/// A loaded module (`context` is its own) or library (`context` is 0: its kernels serve every context).
pub(crate) struct Module {
    pub(crate) context: usize,
    functions: HashMap<CString, usize>,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(crate) kernel: Kernel,
    pub(crate) name: CString,
    pub(crate) context: usize,
    /// Size and offset of each parameter in bytes, as a packed buffer has them.
    parameters: Vec<(usize, usize)>,
    /// Dynamic shared memory it may ask for, in bytes.
    pub(crate) max_shared_bytes: std::sync::atomic::AtomicI32,
}

/// Dynamic shared memory a launch may ask for unless the function's attribute says more, in bytes.
const DEFAULT_SHARED_BYTES: i32 = 48 << 10;

impl Function {
    /// The arguments that `read` finds at each parameter's index, size and offset.
    pub(crate) fn arguments(&self, read: impl Fn(usize, usize, usize) -> R<u64>) -> R<[u64; MAX_PARAMETERS]> {
        let mut arguments = [0; MAX_PARAMETERS];
        for (index, &(bytes, offset)) in self.parameters.iter().enumerate() {
            arguments[index] = read(index, bytes, offset)?;
        }
        Ok(arguments)
    }
}

impl Sim {
    /// Loads an image; `context` is 0 for a library.
    pub(crate) fn load_module(&mut self, image: &str, context: usize) -> R<usize> {
        let entries = match image.strip_prefix(IMAGE_MAGIC) {
            Some(names) => names.lines().filter(|line| !line.is_empty()).map(|line| (line, None)).collect(),
            None => ptx_entries(image)?,
        };
        let functions: R<Vec<_>> =
            entries.iter().map(|(name, sizes)| function(name, sizes.as_deref(), context)).collect();
        let mut names = HashMap::new();
        for function in functions?.into_iter().flatten() {
            names.insert(function.name.clone(), self.functions.insert(Arc::new(function)));
        }
        Ok(self.modules.insert(Module { context, functions: names }))
    }

    /// Unloads a module or library with its functions.
    pub(crate) fn unload_module(&mut self, handle: usize) -> R {
        let module = self.modules.remove(handle).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        for function in module.functions.values() {
            self.functions.remove(*function);
        }
        Ok(())
    }

    /// A module's function by name.
    pub(crate) fn module_function(&self, handle: usize, name: &std::ffi::CStr) -> R<usize> {
        let module = self.modules.get(handle).ok_or(Status::CUDA_ERROR_INVALID_HANDLE)?;
        module.functions.get(name).copied().ok_or(Status::CUDA_ERROR_NOT_FOUND)
    }

    /// False, with the kernel's context at its end, if the kernel would touch memory that is not there.
    pub(crate) fn admit_kernel(&mut self, launch: &Launch) -> bool {
        let touched = launch.touched();
        let allowed = touched.iter().all(|&(address, bytes)| self.memory.is_kernel_accessible(address, bytes));
        if let Some(context) = self.contexts.get_mut(launch.context).filter(|_| !allowed) {
            context.error = Some(Status::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        allowed
    }
}

/// An entry that names no kernel of ours is no error until it is asked for.
fn function(name: &str, sizes: Option<&[usize]>, context: usize) -> R<Option<Function>> {
    let Some((kernel, parameters)) = kernels::find(name) else {
        return Ok(None);
    };
    let defaults: Vec<_> = parameters.iter().map(|parameter| parameter.default_bytes()).collect();
    let sizes = sizes.unwrap_or(&defaults);
    let fits = sizes.len() == parameters.len() && parameters.iter().zip(sizes).all(|(p, bytes)| p.allows(*bytes));
    if !fits {
        return Err(Status::CUDA_ERROR_INVALID_PTX);
    }
    let mut offset = 0;
    let place = |&bytes: &usize| {
        let start = usize::next_multiple_of(offset, bytes);
        offset = start + bytes;
        (bytes, start)
    };
    Ok(Some(Function {
        kernel,
        name: CString::new(name).map_err(|_| Status::CUDA_ERROR_INVALID_PTX)?,
        context,
        parameters: sizes.iter().map(place).collect(),
        max_shared_bytes: DEFAULT_SHARED_BYTES.into(),
    }))
}

/// An entry's name, and its parameters' sizes in bytes where the image says them.
type Declaration<'a> = (&'a str, Option<Vec<usize>>);

/// Names of the `.entry` directives, with the sizes of their parameters in bytes.
fn ptx_entries(text: &str) -> R<Vec<Declaration<'_>>> {
    if !text.contains(".version") || !text.contains(".target") {
        return Err(Status::CUDA_ERROR_INVALID_IMAGE);
    }
    let mut entries = Vec::new();
    for part in text.split(".entry").skip(1) {
        let part = part.trim_start();
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let list = rest.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let sizes: Option<Vec<_>> =
            list.map_or("", |(list, _)| list).split(".param").skip(1).map(parameter_bytes).collect();
        entries.push((name, Some(sizes.ok_or(Status::CUDA_ERROR_INVALID_PTX)?)));
    }
    Ok(entries)
}

/// The size that a parameter's type (`.u64 name`, `.align 8 .f32 name`) has.
fn parameter_bytes(declaration: &str) -> Option<usize> {
    let kinds = declaration.split_ascii_whitespace().filter_map(|word| word.strip_prefix(['.']));
    let bits: usize = kinds.filter_map(|kind| kind.trim_start_matches(['u', 's', 'b', 'f']).parse().ok()).next()?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_entries_give_names_and_parameter_sizes() {
        let text = ".version 7.0\n.target sm_70\n.visible .entry spin(\n .param .u64 ns\n)\n{ ret; }\n\
                    .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .align 4 .u32 n) { ret; }";
        let entries = ptx_entries(text).expect("well formed");
        assert_eq!(entries, [("spin", Some(vec![8])), ("saxpy", Some(vec![4, 8, 8, 4]))]);
        assert!(ptx_entries("no module").is_err());
    }
}
