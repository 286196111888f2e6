// The window's language: the first of the person's that there is a catalogue for. It is settled when the app starts.
const base = (tag: string): string => tag.split("-")[0] ?? tag;

export const locale: string =
  navigator.languages.flatMap((tag) => [__LOCALES__.find((known) => known === tag), __LOCALES__.find((known) => known === base(tag))]).find((known) => known !== undefined) ?? "en";
