//! F5 BIG-IP: AS3 declarations and `bigip.conf` are read into one [`Model`](model::Model), which is written as one Gateway
//! for each virtual address, routes, Services with the members of pools as their endpoints, and policies.

mod as3;
mod bigip;
mod conditions;
mod model;
mod output;
mod pools;
mod rules;
mod tree;

use super::{NoteKind, Notes, Output, Source};
use crate::problem::Origin;

pub(super) fn migrate(sources: &[Source], notes: &mut Notes) -> Output {
    let mut model = model::Model::default();
    for source in sources {
        if as3::is_declaration(&source.text) {
            as3::read(source, &mut model, notes);
        } else if !bigip::read(source, &mut model, notes) {
            let origin = Origin { file: source.file.clone(), line: 0, column: 0 };
            let message = "is neither an AS3 declaration nor a bigip.conf with ltm objects";
            notes.add(NoteKind::Fault, Some(&origin), "", message);
        }
    }
    output::write(&model, notes)
}
