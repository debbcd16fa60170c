/* Files as one zip archive, and names for them that every file system takes: those that folders.py gives. */
"use strict";

const TAKEN = ["unsure", "answers.csv", "sheets.csv"];  // names that predict.py needs beside the folders of classes
const REFUSED_CHARACTERS = /[<>:"\/\\|?*\p{Cc}\p{Cs}]/gu;
const REFUSED_NAME = /^(con|prn|aux|nul|com\p{Nd}|lpt\p{Nd})(\.|$)/iu;
const LONGEST_NAME = 200, LONGEST_SUFFIX = 20;  // bytes
const MAX_FILES = 0xffff, MAX_BYTES = 0xffffffff;  // of a zip archive; more need its 64-bit form
const utf8 = new TextEncoder();

/* portable of folders.py: a name for a file or a folder; what file systems may refuse becomes _. */
function portable(name) {
  name = name.replace(REFUSED_CHARACTERS, "_").replace(/^[. ]|[. ]$|^$/g, "_");
  if (REFUSED_NAME.test(name)) name = `_${name}`;
  let [stem, suffix] = split(name);
  if (utf8.encode(suffix).length > LONGEST_SUFFIX) [stem, suffix] = [name, ""];
  const room = new Uint8Array(LONGEST_NAME - utf8.encode(suffix).length);
  return stem.slice(0, utf8.encodeInto(stem, room).read) + suffix;
}

/* class_folders of folders.py: a folder's name for each label, no two alike, whatever their case. */
function classFolders(labels) {
  const taken = new Set(TAKEN), folders = [];
  const isOdd = (index) => Number(portable(labels[index]) !== labels[index]);
  // a label that stays as it is comes first, so that no other takes its folder
  for (const index of [...labels.keys()].sort((a, b) => isOdd(a) - isOdd(b))) {
    const first = portable(labels[index]), [stem, suffix] = split(first);
    let name = first;
    for (let number = 1; taken.has(folded(name)); number++) name = `${stem}-${number}${suffix}`;
    folders[index] = name;
    taken.add(folded(name));
  }
  return folders;
}

/* A name's stem and suffix, as os.path.splitext has them. */
function split(name) {
  const at = name.lastIndexOf(".");
  return at > 0 && /[^.]/.test(name.slice(0, at)) ? [name.slice(0, at), name.slice(at)] : [name, ""];
}

/* Python's casefold of the text in NFC. Of all characters only the Turkish dotless i has a capital that it isn't alike. */
function folded(text) {
  return Array.from(text.normalize("NFC"), (each) =>
    each === "ı" ? each : each.toLowerCase().toUpperCase().toLowerCase()).join("");
}

/* The parts of a zip archive, which new Blob joins. files: [{name, content}], a path with slashes and a Uint8Array.
   Nothing is compressed, as PNG files are already. */
function zip(files, changed = new Date()) {
  const time = changed.getHours() << 11 | changed.getMinutes() << 5 | changed.getSeconds() >> 1;
  const day = changed.getFullYear() - 1980 << 9 | changed.getMonth() + 1 << 5 | changed.getDate();
  const parts = [], directory = [];
  let position = 0;
  for (const {name, content} of files) {
    const path = utf8.encode(name);
    // version 2.0, names in UTF-8, stored; time, checksum, sizes, no extra field: both headers have these
    const shared = [[2, 20], [2, 1 << 11], [2, 0], [2, time], [2, day], [4, checksum(content)], [4, content.length],
                    [4, content.length], [2, path.length], [2, 0]];
    directory.push(bytes([4, 0x02014b50], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, position]), path);
    const local = [bytes([4, 0x04034b50], ...shared), path, content];
    parts.push(...local);
    position += lengthOf(local);
  }
  const size = lengthOf(directory);
  if (files.length > MAX_FILES || position + size > MAX_BYTES) throw new Error("too many drawings for one zip");
  const end = bytes([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, position],
                    [2, 0]);
  return [...parts, ...directory, end];
}

/* Numbers as bytes, the lowest first. fields: [bytes, number], ... */
function bytes(...fields) {
  return Uint8Array.from(fields.flatMap(([count, value]) =>
    Array.from({length: count}, (_, i) => value >>> 8 * i & 255)));
}

function lengthOf(parts) {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

const CRC = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? value >>> 1 ^ 0xedb88320 : value >>> 1;
  return value;
});

/* The CRC-32 of bytes. */
function checksum(content) {
  let value = 0xffffffff;
  for (const each of content) value = CRC[(value ^ each) & 255] ^ value >>> 8;
  return (value ^ 0xffffffff) >>> 0;
}
