// What the app shows, as it crosses from the host to the window. The Rust side (`src-tauri/controller`)
// makes the same shapes. Times are milliseconds since 1970, sizes are bytes.

export type * from "./machine";
export type * from "./builds";
export type * from "./steps";
export type * from "./new";
export type * from "./images";
export type * from "./cache";
export type * from "./remotes";
export type * from "./settings";
export type * from "./calls";
