// A short word that something was done. Always text.
import { ElMessage } from 'element-plus/es/components/message/index'
import 'element-plus/es/components/message/style/css'

export function toast(message: string, type: 'success' | 'warning' | 'error' = 'success'): void {
  ElMessage({ message, type, duration: 4000, showClose: false, grouping: true, offset: 72 })
}
