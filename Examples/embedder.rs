// SPDX-License-Identifier: Apache-2.0
//! The plain level from Rust: an owner of the buffer, a source, and a delivery loop on a thread.
//!
//!     rustc -O embedder.rs -L /usr/local/lib -l cdedupe

use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};

/// `cdedupe_bytes_item_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Item {
    key: *const u8,
    key_length: usize,
    value: *const u8,
    value_length: usize,
    revision: u64,
    kind: u8,
    status: u8,
    reserved: [u64; 2],
}

const OK: c_int = 0;
const CLAIM_LOOP: c_int = 1;
const FINISH_WHEN_DELIVERED: c_int = 0;

extern "C" {
    fn cdedupe_bytes_create(options: *const c_void, out: *mut *mut c_void) -> c_int;
    fn cdedupe_bytes_destroy(buffer: *mut c_void);
    fn cdedupe_bytes_claim(buffer: *mut c_void, kind: c_int) -> c_int;
    fn cdedupe_bytes_release(buffer: *mut c_void);
    fn cdedupe_bytes_put(
        buffer: *mut c_void, key: *const u8, key_length: usize, value: *const u8, value_length: usize,
        revision: u64, outcome: *mut c_int,
    ) -> c_int;
    fn cdedupe_bytes_finish(buffer: *mut c_void, when: c_int) -> c_int;
    fn cdedupe_bytes_take_wait(
        buffer: *mut c_void, items: *mut Item, capacity: usize, count: *mut usize, timeout_ms: i64,
    ) -> c_int;
}

/// Any thread may put; one thread delivers.
struct Buffer(*mut c_void);

unsafe impl Send for Buffer {}
unsafe impl Sync for Buffer {}

impl Buffer {
    fn new() -> Buffer {
        let mut buffer = null_mut();
        unsafe {
            assert_eq!(cdedupe_bytes_create(null(), &mut buffer), OK);
            assert_eq!(cdedupe_bytes_claim(buffer, CLAIM_LOOP), OK);
        }
        Buffer(buffer)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let result = unsafe {
            cdedupe_bytes_put(self.0, key.as_ptr(), key.len(), value.as_ptr(), value.len(), 0, null_mut())
        };
        assert_eq!(result, OK);
    }

    fn finish(&self) {
        unsafe { cdedupe_bytes_finish(self.0, FINISH_WHEN_DELIVERED) };
    }

    /// Returns when the buffer has finished. A deletion has no value.
    fn deliver(&self, mut sink: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut items: Vec<Item> = Vec::with_capacity(100);
        let mut count = 0;
        unsafe {
            while cdedupe_bytes_take_wait(self.0, items.as_mut_ptr(), 100, &mut count, -1) == OK {
                items.set_len(count);
                for item in &items {
                    let key = std::slice::from_raw_parts(item.key, item.key_length);
                    let value = (!item.value.is_null())
                        .then(|| std::slice::from_raw_parts(item.value, item.value_length));
                    sink(key, value);
                }
            }
            cdedupe_bytes_release(self.0);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        unsafe { cdedupe_bytes_destroy(self.0) }
    }
}

fn main() {
    let buffer = Buffer::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            buffer.deliver(|key, value| {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                println!("{} = {}", text(key), value.map_or("(deleted)".into(), text));
            })
        });
        for n in 0..=1000 {
            buffer.put(format!("sensor/{}", n % 3).as_bytes(), n.to_string().as_bytes());
        }
        buffer.finish();
    });
}
