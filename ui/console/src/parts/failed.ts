import { shallowRef } from 'vue'

/** What broke a page: the frame shows it instead of the page, with a way on. */
export const failed = shallowRef<Error>()
