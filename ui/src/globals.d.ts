/** True in the build for browser tests. */
declare const __MOCK__: boolean;
