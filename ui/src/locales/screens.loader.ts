// What the strings of the components become at run time: a look-up in the catalogue of the window's language.
import toRuntime, { type CatalogModule, type Runtime } from "wuchale/runtime";
import { locale } from "./locale";

export const getRuntime = (catalogs: Record<string, CatalogModule>): Runtime => toRuntime(catalogs[locale], locale);
export const getRuntimeRx = getRuntime;
