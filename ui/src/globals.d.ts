/** True in the build for browser tests. */
declare const __MOCK__: boolean;
/** The languages that there are catalogues for. */
declare const __LOCALES__: string[];
