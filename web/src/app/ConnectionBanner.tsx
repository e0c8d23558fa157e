import { connection } from "../api/connection";
import { useStore } from "../api/store";

export function ConnectionBanner() {
  const lost = useStore(connection) === "lost";
  return (
    <div role="status" className={lost ? "banner" : ""}>
      {lost && "The service does not answer. What you see may be old; trying again …"}
    </div>
  );
}
