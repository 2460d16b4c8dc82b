import { inject, type InjectionKey, type Ref } from 'vue'

/** What a control learns from the field around it. */
export interface Field {
  id: string
  labelId: string
  label: Ref<string>
  described: Ref<string | undefined>
  wrong: Ref<boolean>
  required: Ref<boolean | undefined>
}
export const fieldKey: InjectionKey<Field> = Symbol('field')
export const useField = (): Field | undefined => inject(fieldKey, undefined)
