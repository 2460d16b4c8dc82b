/** Where a sign-in leads back to: a path of this house and nothing else. */
export function nextOf(query: unknown): string {
  return typeof query === 'string' && /^\/(?![/\\])[^\u0000-\u0020\\]*$/.test(query) ? query : '/'
}
