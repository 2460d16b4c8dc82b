// What both faces share: the typed client, the server's clock, live updates and the way numbers are shown.
export * from './client'
export * from './clock'
export * from './factor'
export * from './live'
export * from './format'
export type { components, paths } from './schema'
