//! Counts declarations of types, which nest. The parser's own reader of them calls itself for each level, as deep as the bytes say, and would
//! exhaust the stack: here the depth is known before a level is entered.

use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternName, ComponentImport, ComponentType, ComponentTypeRef, CoreType, FromReader,
    ModuleTypeDeclaration,
};

use super::{invalid, within};
use crate::plugin::error::Refusal;
use crate::plugin::limits::CompileLimits;

const COMPONENT: u8 = 0x41;
const INSTANCE: u8 = 0x42;

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Types {
    pub(super) types: u64,
    pub(super) externs: u64,
}

impl Types {
    /// Counts types.
    pub(super) fn types(&mut self, count: u64, limits: &CompileLimits) -> Result<(), Refusal> {
        self.types += count;
        within("types", self.types, limits.types)
    }

    /// Counts imports, exports and aliases.
    pub(super) fn externs(&mut self, count: u64, limits: &CompileLimits) -> Result<(), Refusal> {
        self.externs += count;
        within("externs", self.externs, limits.externs)
    }

    /// Counts what one section of component types declares. `section` is the whole of it, `offset` its place in the component.
    pub(super) fn section(&mut self, section: &[u8], offset: usize, limits: &CompileLimits) -> Result<(), Refusal> {
        let mut reader = BinaryReader::new(section, offset);
        for _ in 0..reader.read_var_u32().map_err(invalid)? {
            self.declared(&mut reader, 0, limits)?;
        }
        Ok(())
    }

    /// Counts what a type of a core module declares.
    pub(super) fn core(&mut self, declared: &CoreType<'_>, limits: &CompileLimits) -> Result<(), Refusal> {
        match declared {
            CoreType::Rec(group) => self.types(group.types().len() as u64, limits),
            CoreType::Module(declarations) => declarations.iter().try_for_each(|declaration| match declaration {
                ModuleTypeDeclaration::Type(group) => self.types(group.types().len() as u64, limits),
                _ => self.externs(1, limits),
            }),
        }
    }

    fn declared(&mut self, reader: &mut BinaryReader<'_>, depth: u64, limits: &CompileLimits) -> Result<(), Refusal> {
        self.types(1, limits)?;
        let mut ahead = reader.clone();
        let kind = ahead.read_u8().map_err(invalid)?;
        if !matches!(kind, COMPONENT | INSTANCE) {
            return read::<ComponentType<'_>>(reader).map(drop);
        }
        within("type_nesting", depth + 1, limits.type_nesting)?;
        *reader = ahead;
        for _ in 0..reader.read_var_u32().map_err(invalid)? {
            match reader.read_u8().map_err(invalid)? {
                0x00 => {
                    let core = read::<CoreType<'_>>(reader)?;
                    self.core(&core, limits)?;
                }
                0x01 => self.declared(reader, depth + 1, limits)?,
                0x02 => self.extern_::<ComponentAlias<'_>>(reader, limits)?,
                0x03 if kind == COMPONENT => self.extern_::<ComponentImport<'_>>(reader, limits)?,
                0x04 => self.extern_::<(ComponentExternName<'_>, ComponentTypeRef)>(reader, limits)?,
                other => return Err(Refusal::Invalid(format!("unknown declaration {other:#x} in a type"))),
            }
        }
        Ok(())
    }

    fn extern_<'a, T: FromReader<'a>>(&mut self, reader: &mut BinaryReader<'a>, limits: &CompileLimits) -> Result<(), Refusal> {
        read::<T>(reader)?;
        self.externs(1, limits)
    }
}

fn read<'a, T: FromReader<'a>>(reader: &mut BinaryReader<'a>) -> Result<T, Refusal> {
    reader.read().map_err(invalid)
}
