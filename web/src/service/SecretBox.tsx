import { useStore } from "../api/store";
import { CopyText } from "../ui/CopyText";
import { shownSecret } from "./shownSecret";

export function SecretBox() {
  const shown = useStore(shownSecret);
  if (!shown) return null;
  return (
    <section className="card warning" role="status">
      <h2>Copy {shown.what} now</h2>
      <p>The service does not keep it, and it is shown this once.</p>
      <CopyText what={shown.what} text={shown.secret} />
      <button onClick={() => shownSecret.set(null)}>I have it</button>
    </section>
  );
}
