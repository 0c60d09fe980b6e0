//! The benchmark's front program (see `causeway_schema::front`), in an object
//! of its own: nothing of it is ever attached to an interface.
#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{classifier, map},
    maps::{Array, ProgramArray},
    programs::TcContext,
};
use causeway_schema::front::{Front, TEMPLATE_BYTES, flow_address};

#[map]
static FRONT: Array<Front> = Array::with_max_entries(1, 0);

/// Slot 0: the program under test.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;
const ACT_OK: i32 = 0;

#[classifier]
pub fn front(ctx: TcContext) -> i32 {
    if write_packet(&ctx).is_some() {
        // SAFETY: the slot holds a program of this type; on an empty slot the
        // call returns and the packet passes.
        let _ = unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    }
    ACT_OK
}

/// What is left when the program under test does nothing: the baseline.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    ACT_OK
}

#[inline(always)]
fn write_packet(ctx: &TcContext) -> Option<()> {
    // SAFETY: one benchmark runs at a time, on one CPU.
    let front = unsafe { &mut *FRONT.get_ptr_mut(0)? };
    front.state = front.state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
    let flow = (front.state >> 33) as u32 & front.mask;
    let frame = ctx.data();
    if frame + TEMPLATE_BYTES > ctx.data_end() {
        return None;
    }
    // SAFETY: the length was checked.
    unsafe {
        *(frame as *mut [u64; TEMPLATE_BYTES / 8]) = front.template;
    }
    let varied = front.varied as usize & 31;
    if frame + varied + 4 > ctx.data_end() {
        return None;
    }
    // SAFETY: as above.
    unsafe { ((frame + varied) as *mut [u8; 4]).write_unaligned(flow_address(flow)) };
    Some(())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
